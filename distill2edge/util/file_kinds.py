"""Kinds of files by ending and first bytes: which hold rows, and what to do with those that do not."""

from __future__ import annotations

from pathlib import Path

TEXT = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt")
COLUMNS = (".parquet", ".arrow", ".feather")
PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
ROWS_ARE = "json, jsonl, csv, tsv, txt (also as .gz, .bz2, .xz, .zst, or alone in a .zip), parquet, arrow or feather"

_FRAME = "write it as Parquet: pandas.DataFrame(rows).to_parquet('rows.parquet')"
_UNPACK = "unpack it, and name the file in it"
_ELSE = {
    ending: (what, fix)
    for endings_of_kind, what, fix in (
        (".xlsx .xls .xlsm .ods .numbers", "a spreadsheet",
         "save the sheet as CSV in UTF-8, or pandas.read_excel(NAME).to_csv('rows.csv', index=False)"),
        (".tar .tgz .tbz2 .txz .7z .rar .lz4 .z", "an archive", _UNPACK),
        (".pkl .pickle .pt .pth .bin .joblib", "a pickle, which can run code and is never read", _FRAME),
        (".orc .avro .h5 .hdf5 .npy .npz .dta .sav .rds", "a table of another kind", _FRAME),
        (".db .sqlite .sqlite3", "a database", "export its rows as CSV"),
        (".pdf .doc .docx .odt .rtf .html .htm .xml .epub", "a document", "write its rows as CSV or JSON Lines"),
        (".md .log .text .rst", "plain text", "name it .txt: every line is a row, {{ text }}"),
        (".yaml .yml", "a recipe, or other YAML", "name a file of rows"),
        (".gguf .safetensors .onnx", "a model", "name a file of rows; a model belongs to teacher.model"),
        (".py .ipynb .sh .toml", "a program or settings", "name a file of rows"),
    )
    for ending in endings_of_kind.split()
}  # fmt: skip

# What a file is by its first bytes, where that is not what its ending says.
MAGIC = {
    b"PK\x03\x04": ("a zip archive or an Excel file", "name it .zip, or save it as CSV in UTF-8"),
    b"PAR1": ("Parquet", "name it .parquet"),
    b"ARROW1": ("Arrow", "name it .arrow"),
    b"\x1f\x8b": ("gzip", "name it .gz"),
    b"%PDF": ("PDF", "export its rows as CSV"),
    b"SQLi": ("an SQLite database", "export its rows as CSV"),
    b"\x28\xb5\x2f\xfd": ("zstd", "name it .zst"),
    b"BZh": ("bzip2", "name it .bz2"),
    b"\xfd7zX": ("xz", "name it .xz"),
    b"7z\xbc\xaf": ("a 7z archive", _UNPACK),
    b"Rar!": ("a rar archive", _UNPACK),
    b"GGUF": ("a GGUF model", "give a file of rows"),
}  # fmt: skip


def endings(name: str | Path) -> tuple[str, str]:
    """The ending that says what is in a file, and that of its packing, each empty where there is none."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    packing = suffixes.pop() if suffixes and suffixes[-1] in PACKED else ""
    return (suffixes[-1] if suffixes else ""), packing


def holds_rows(name: str | Path) -> bool:
    """Whether a file holds rows, by its name."""
    ending, packing = endings(name)
    return ending in TEXT or (ending in COLUMNS and not packing) or (packing == ".zip" and not ending)


def by_content(head: bytes) -> tuple[str, str] | None:
    """What a file is by its first bytes, and what to do; None where they say nothing."""
    return next((told for magic, told in MAGIC.items() if head.startswith(magic)), None)


def not_rows(name: str | Path) -> tuple[str, str]:
    """What a file is that holds no rows by its name, and what to do."""
    ending, packing = endings(name)
    if ending in COLUMNS:
        return f"{ending} packed as {packing}", f"unpack it: {ending} is packed by itself"
    if ending in (".tar",) or not packing:
        what, fix = _ELSE.get(ending, ("", ""))
        if what:
            return f"unknown kind of file {ending!r} ({what})", fix
    if not ending and not packing:
        return "its name has no ending, which says what it is", f"name it by its kind: {ROWS_ARE}"
    return f"unknown kind of file {''.join((ending, packing))!r}", ROWS_ARE
