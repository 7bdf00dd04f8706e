"""Which GPUs and how much memory there are, and how a model is laid over the GPUs."""

from pathlib import Path

import pytest

from icm_client.errors import InputError
from icm_client.serving.hardware import Gpu, available_memory, parallel_over, parsed_gpus, visible

GIB = 1024**3
H100 = Gpu("NVIDIA H100", 80 * GIB)


@pytest.mark.parametrize(
    ("weights", "gpus", "layout"),
    [
        (10 * GIB, 1, (1, 1)),
        (10 * GIB, 8, (1, 8)),
        (60 * GIB, 8, (2, 4)),
        (150 * GIB, 8, (4, 2)),
        (60 * GIB, 3, (2, 1)),
        (None, 6, (4, 1)),
    ],
)
def test_gpus_are_filled_with_replicas_that_fit(
    weights: int | None, gpus: int, layout: tuple[int, int]
) -> None:
    found = parallel_over((H100,) * gpus, weights)
    assert (found.tensor, found.data) == layout


def test_more_gpus_than_there_are() -> None:
    with pytest.raises(InputError, match="lower --tensor-parallel"):
        parallel_over((H100,), 1, tensor=2)
    with pytest.raises(InputError, match="too little GPU memory"):
        parallel_over((H100,), 100 * GIB)


def test_what_cuda_shows() -> None:
    listed = parsed_gpus(
        "0, GPU-aa11, 81559, NVIDIA H100 80GB HBM3\n1, GPU-bb22, 81559, NVIDIA H100, odd name\nx\n"
    )
    assert [gpu.name for gpu in visible(listed, None)] == [
        "NVIDIA H100 80GB HBM3",
        "NVIDIA H100, odd name",
    ]
    assert len(visible(listed, "1")) == 1
    assert visible(listed, "GPU-bb")[0].name == "NVIDIA H100, odd name"
    assert visible(listed, "") == visible(listed, "-1") == ()
    assert len(visible(listed, "0,7,1")) == 1, "CUDA stops at the first that is not there"
    assert visible(listed, "MIG-1234")[0].memory is None


def test_a_containers_memory_is_what_counts(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable: 64 kB\n")
    assert available_memory(meminfo, tmp_path) == 65536
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(meminfo, tmp_path) == 65536
    (tmp_path / "memory.max").write_text("50000\n")
    (tmp_path / "memory.current").write_text("20000\n")
    assert available_memory(meminfo, tmp_path) == 30000
    assert available_memory(tmp_path / "none", tmp_path / "none") is None
