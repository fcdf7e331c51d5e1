"""Teacher against student by cost: which cells stand for them, and how much of the saving is the model's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from distill2edge.cost import formulas
from distill2edge.cost.robustness import by_price_cut, by_utilisation
from distill2edge.cost.teacher_baselines import is_teacher_baseline, quality_floor
from distill2edge.quantize.schemes import is_compared

Cell = dict[str, Any]
RUNTIMES = {"torch": "PyTorch", "onnx": "ONNX Runtime", "gguf": "llama.cpp"}
"""By the format of a file: what runs it."""


def role_of(name: str) -> str:
    """Whose model or cell it is."""
    return name.split("/", 1)[0].split("@", 1)[0]


def scheme_of(name: str) -> str:
    """`gguf:Q8_0` of a model's name; `torch` of a dense one."""
    return name.partition("/")[2] or "torch"


def runtime_of(name: str) -> str:
    """The runtime of a model's name: `PyTorch`, `ONNX Runtime`, `llama.cpp`."""
    return RUNTIMES.get(scheme_of(name).partition(":")[0], scheme_of(name))


def admitted(verify: Mapping[str, Any]) -> dict[str, bool]:
    """Which models may stand for their side: no error, no failed gate, and enough quality. The dense student, which no
    gate holds, must keep what its files must: what is cheap because it is bad may stand for neither side. What
    does not beat a rule without a model stands for nothing."""
    gates = verify.get("gates", [])
    failed = {gate["model"] for gate in gates if not gate.get("passed")}
    floor = quality_floor(gates)
    found = {}
    for entry in verify.get("models", []):
        name = str(entry["id"])
        if entry.get("above_baseline") is False:
            found[name] = False
            continue
        if entry.get("role") == "teacher":
            found[name] = name not in failed and is_teacher_baseline(entry, floor)
            continue
        # An arm without calibration is made to compare, not to ship.
        good = not entry.get("error") and name not in failed and not is_compared(name)
        if good and floor is not None:
            retained = (entry.get("retained") or {}).get("value")
            good = retained is not None and retained >= floor
        found[name] = good
    return found


def choose(
    cells: Sequence[Cell], role: str, place: str, label: str, good: Mapping[str, bool], notes: list[str]
) -> list[Cell]:
    """The cells of one side at one place that may stand for it, cheapest first; what is missing goes to `notes`."""
    here = [cell for cell in cells if role_of(cell["model"]) == role and cell["place"] == place]
    found = [cell for cell in here if cell["cell"] == place or good.get(cell["model"], False)]
    if here and not found:
        why = "its gates, its quality or a baseline without a model"
        notes.append(f"no {role} file is good enough to be compared, by {why}")
    elif not here:
        notes.append(f"no {role} cell could be priced at {label}")
    return sorted(found, key=lambda cell: float(cell["at_utilisation"]))


def pair(teachers: Sequence[Cell], students: Sequence[Cell], notes: list[str]) -> tuple[Cell | None, Cell | None]:
    """The cells to compare: the teacher's cheapest, and the student's cheapest in a runtime that the teacher has too.

    A teacher that was measured in PyTorch alone would have been cheaper in the student's runtime as well; what it would
    cost there is not known, so the student's figure of that runtime proves nothing against it. An API has no runtime:
    it is what is paid today, and every file of the student may be held against it.

    Args:
        teachers, students: cheapest first.
    """
    teacher, cheapest = next(iter(teachers), None), next(iter(students), None)
    if teacher is None or cheapest is None or _is_api(teacher):
        return teacher, cheapest
    known = {runtime_of(cell["model"]) for cell in teachers}
    student = next((cell for cell in students if runtime_of(cell["model"]) in known), None)
    if student is None or student is not cheapest:
        there = runtime_of(cheapest["model"])
        said = "so the two are not compared by cost"
        if student is not None:
            said = f"so {student['cell']} is compared, in a runtime that both have"
        notes.append(
            f"{cheapest['cell']} is the student's cheapest, but no file of the teacher that keeps its quality was "
            f"measured in {there}: {said}; verify.teacher_schemes: [{scheme_of(cheapest['model'])}] measures it there"
        )
    return teacher, student


def split(teacher: Cell, students: Sequence[Cell], chosen: Cell) -> dict[str, Any] | None:
    """How the cost falls from the teacher's cell to a cell of the student: by the model, then by runtime and file.

    The step between them is the student as the teacher's cell is: in its scheme, else in its runtime.

    Returns:
        `cell` (the step), `same` (`scheme` or `runtime`), `model` (teacher's cost / step's cost) and `rest` (step's
        cost / chosen cell's): their product is the whole ratio. None where the student has no such cell.
    """
    scheme, runtime = scheme_of(teacher["model"]), runtime_of(teacher["model"])
    like = next((cell for cell in students if scheme_of(cell["model"]) == scheme), None)
    same = "scheme"
    if like is None:
        like, same = next((cell for cell in students if runtime_of(cell["model"]) == runtime), None), "runtime"
    if like is None or not like["at_utilisation"] or not chosen["at_utilisation"]:
        return None
    cost = float(like["at_utilisation"])
    return {
        "cell": like["cell"],
        "same": same,
        "runtime": runtime,
        "model": teacher["at_utilisation"] / cost,
        "rest": cost / chosen["at_utilisation"],
    }


def comparison(
    best: tuple[Sequence[Cell], Sequence[Cell]],
    same_box: tuple[Sequence[Cell], Sequence[Cell]],
    models: Iterable[Mapping[str, Any]],
    one_off_usd: float,
    requests_per_month: int,
    notes: list[str],
) -> dict[str, Any] | None:
    """The comparison of cost.json; None, with a note, where one side has no cell that may stand for it.

    Args:
        best: the teacher's and the student's cells, each on its own box, cheapest first; same_box: on one.
        models: entries of verify.json, for the counts of parameters.
        one_off_usd: what the student took to make.
    """
    teacher, student = pair(*best, notes)
    if teacher is None or student is None:
        notes.append("teacher and student cannot be compared by cost: one of them has no cell to compare")
        return None
    counts = {str(entry["id"]): entry.get("parameters") or 0 for entry in models}
    sizes = counts.get("teacher", 0), counts.get(student["model"], 0)
    return {
        **_sides(teacher, student),
        **_on_one_box(same_box),
        "shipped": _shipped(teacher, student, best),
        "student_is_larger": bool(sizes[0]) and sizes[1] > sizes[0],
        **_over_time(teacher, student, one_off_usd, requests_per_month),
    }


def _sides(teacher: Cell, student: Cell) -> dict[str, Any]:
    """The two cells, and what is saved between them."""
    costs = teacher["at_utilisation"], student["at_utilisation"]
    return {
        "teacher": teacher["cell"],
        "student": student["cell"],
        "teacher_place": teacher["place"],
        "student_place": student["place"],
        "teacher_runtime": None if _is_api(teacher) else runtime_of(teacher["model"]),
        "student_runtime": runtime_of(student["model"]),
        "teacher_per_1000": costs[0],
        "student_per_1000": costs[1],
        "saving": formulas.saving(*costs),
        # The worst and best that the price bounds allow, taken against each other.
        "saving_low": formulas.saving(teacher["low"], student["high"]),
        "saving_high": formulas.saving(teacher["high"], student["low"]),
    }


def _on_one_box(cells: tuple[Sequence[Cell], Sequence[Cell]]) -> dict[str, Any]:
    """What is saved on one and the same box, so that the place is no part of it."""
    teacher, student = pair(*cells, [])
    if teacher is None or student is None:
        return {"saving_same_box": None, "split": None}
    saved = formulas.saving(teacher["at_utilisation"], student["at_utilisation"])
    return {"saving_same_box": saved, "split": split(teacher, cells[1], student)}


def _shipped(teacher: Cell, student: Cell, best: tuple[Sequence[Cell], Sequence[Cell]]) -> dict[str, Any]:
    """The cheapest file that ships; the dense student where there is none."""
    shipped = next((cell for cell in best[1] if scheme_of(cell["model"]) != "torch"), student)
    return {
        "cell": shipped["cell"],
        "runtime": runtime_of(shipped["model"]),
        "per_1000": shipped["at_utilisation"],
        "saving": formulas.saving(teacher["at_utilisation"], shipped["at_utilisation"]),
        "split": None if _is_api(teacher) else split(teacher, best[1], shipped),
    }


def _over_time(teacher: Cell, student: Cell, one_off_usd: float, requests_per_month: int) -> dict[str, Any]:
    """The break-even, the user's own volume, and what would erase the saving."""
    costs = teacher["at_utilisation"], student["at_utilisation"]
    requests = formulas.break_even_requests(one_off_usd, *costs)
    year = 12.0 * requests_per_month
    return {
        "break_even_requests": requests,
        "break_even_months": None if requests is None else requests / requests_per_month,
        "at_volume": {
            "requests_per_month": requests_per_month,
            "teacher_busy": teacher["implied_utilisation"],
            "student_busy": student["implied_utilisation"],
            "teacher_alone_usd": teacher["alone_per_1000"] * requests_per_month / 1000,
            "student_alone_usd": student["alone_per_1000"] * requests_per_month / 1000,
        },
        "by_utilisation": by_utilisation(teacher["cost_per_1000"], student["cost_per_1000"], one_off_usd),
        "by_price_cut": by_price_cut(*costs, one_off_usd),
        "teacher_price_drop_that_erases": formulas.price_drop_that_erases(*costs),
        "teacher_price_drop_that_erases_in_a_year": formulas.price_drop_that_erases(*costs, one_off_usd, year),
    }


def _is_api(cell: Cell) -> bool:
    return str(cell["place"]).startswith("api:")
