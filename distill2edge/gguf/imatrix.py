"""llama.cpp's importance matrix: for every matrix the sum of its squared inputs, per input channel, and the count.

The file is a GGUF (`general.type` = imatrix) with two float32 tensors for each weight: `NAME.in_sum2` [channels] and
`NAME.counts` [1]; the older binary form is not written. Source: tools/imatrix and common/imatrix-loader in llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distill2edge.errors import UserError
from distill2edge.gguf.reader import read_gguf
from distill2edge.util.files import replacing

if TYPE_CHECKING:
    import numpy as np

_SUM, _COUNT = ".in_sum2", ".counts"
# Channels that no calibration text excites still get a share, or a block of such channels would be free to err.
_FLOOR = 1e-6


@dataclass(frozen=True)
class Importance:
    """What calibration text showed of each matrix.

    Attributes:
        sums: GGUF tensor name -> [channels] float32, sum over tokens of the squared input.
        counts: GGUF tensor name -> tokens seen.
        datasets: where the text came from.
        chunk: tokens of one piece of text.
    """

    sums: Mapping[str, np.ndarray]
    counts: Mapping[str, int]
    datasets: Sequence[str] = ()
    chunk: int = 512

    def means(self) -> dict[str, np.ndarray]:
        """GGUF tensor name -> mean squared input, [channels] float32, positive: what the quantizers weight with."""
        import numpy as np

        found = {}
        for name, total in self.sums.items():
            mean = total.astype(np.float64) / self.counts[name]
            found[name] = np.maximum(mean, _FLOOR * mean.mean() + np.finfo(np.float32).tiny).astype(np.float32)
        return found


def write_imatrix(path: Path, importance: Importance) -> None:
    """Write the file; its tensors are in the order of their names.

    Raises:
        UserError: a sum that is not finite, or a matrix that no token reached.
    """
    import gguf
    import numpy as np

    for name, total in importance.sums.items():
        if not np.isfinite(total).all():
            raise UserError(f"the activations of {name} are not finite", where=str(path),
                            fix="check the model's weights for NaN or Inf, and train with a smaller rate")  # fmt: skip
        if importance.counts[name] < 1:
            raise UserError(f"no calibration token reached {name}", where=str(path), fix="give more calibration rows")
    with replacing(path) as temporary:
        writer = gguf.GGUFWriter(temporary, "imatrix", use_temp_file=False)
        writer.add_type("imatrix")
        writer.add_array("imatrix.datasets", list(importance.datasets) or ["unknown"])
        tokens = max(importance.counts.values(), default=0)
        writer.add_uint32("imatrix.chunk_count", -(-tokens // importance.chunk))
        writer.add_uint32("imatrix.chunk_size", importance.chunk)
        for name in sorted(importance.sums):
            writer.add_tensor(name + _SUM, importance.sums[name].astype(np.float32).reshape(1, -1))
            writer.add_tensor(name + _COUNT, np.full((1, 1), importance.counts[name], dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def read_imatrix(path: Path) -> Importance:
    """Read the file.

    Raises:
        UserError: not an importance matrix, or a damaged one.
    """
    file = read_gguf(Path(path))
    if file.get("general.type") != "imatrix":
        raise UserError(
            "this GGUF is not an importance matrix", where=str(path), fix="give a file that llama-imatrix wrote"
        )
    names = [name.removesuffix(_SUM) for name in file.tensors if name.endswith(_SUM)]
    odd = [name for name in names if name + _COUNT not in file.tensors]
    if odd or not names:
        raise UserError(f"sums without counts: {', '.join(odd[:3]) or 'no sums at all'}", where=str(path),
                        fix="make the importance matrix again")  # fmt: skip
    return Importance(
        {name: file.tensor(name + _SUM).reshape(-1).copy() for name in names},
        {name: round(float(file.tensor(name + _COUNT).reshape(-1)[0])) for name in names},
        [str(item) for item in file.get("imatrix.datasets", [])],
        int(file.get("imatrix.chunk_size", 512)),
    )
