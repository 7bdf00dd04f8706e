"""What is checked and chosen before anything is started."""

import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from icm_client.errors import InputError
from icm_client.serving import plan as planning
from icm_client.serving.hardware import Engine, Gpu, Hardware, choose
from icm_client.serving.plan import (
    REASONS,
    VARIABLE_REASONS,
    Plan,
    ServeOptions,
    flags_for,
    is_loopback,
    plan_server,
    url_of,
)

GIB = 1024**3
CPU = Hardware(gpus=(), memory=16 * GIB, cores=4, amx=False)
H100 = Gpu("NVIDIA H100", 80 * GIB)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(
        planning,
        "choose",
        lambda device, hardware: choose(device, hardware, lambda _: "0.32.0"),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "tiny"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"dtype": "bfloat16"}), "utf-8")
    (model / "model.safetensors").write_bytes(b"\0" * 1000)
    return model


def planned(
    model: Path | str,
    *,
    hardware: Hardware = CPU,
    dry: bool = False,
    tensor: int | None = None,
    **options: object,
) -> Plan:
    chosen = ServeOptions(**{"port": 0, **options})  # type: ignore[arg-type]
    return plan_server(str(model), chosen, hardware, print, dry=dry, tensor=tensor)


def value_of(plan: Plan, flag: str) -> str:
    return plan.command[plan.command.index(flag) + 1]


def test_on_a_cpu_the_flags_are_those_that_were_measured(folder: Path) -> None:
    plan = planned(folder)
    assert plan.engine == Engine("cpu", "0.32.0")
    assert value_of(plan, "--block-size") == "16"
    assert value_of(plan, "--dtype") == "float32"
    assert value_of(plan, "--kv-cache-memory-bytes") == str(2 * GIB)
    assert plan.variables["OMP_NUM_THREADS"] == "4"
    for flag in ("--enable-prefix-caching", "--enable-prompt-tokens-details", "--enforce-eager"):
        assert flag in plan.command


@pytest.mark.parametrize(
    ("busy", "threads", "words"),
    [
        (0.0, "4", "threads: 4, cores: 4"),
        (0.2, "4", "threads: 4, cores: 4"),
        (1.1, "3", "threads: 3, cores: 4, of which others use 1.1 now; OMP_NUM_THREADS sets"),
        (9.0, "1", "threads: 1, cores: 4, of which others use 9.0 now; OMP_NUM_THREADS sets"),
    ],
)
def test_cores_that_others_use_are_left_to_them(
    folder: Path, busy: float, threads: str, words: str
) -> None:
    plan = planned(folder, hardware=replace(CPU, busy=busy))
    assert plan.variables["OMP_NUM_THREADS"] == threads
    assert plan.threads.startswith(words)
    assert ("others" in plan.threads) == ("others" in words)


def test_a_cpu_with_amx_multiplies_bfloat16(folder: Path) -> None:
    amx = Hardware(gpus=(), memory=16 * GIB, cores=4, amx=True)
    assert value_of(planned(folder, hardware=amx), "--dtype") == "bfloat16"


def test_on_gpus_the_kernels_choose_the_block_and_replicas_fill_them(folder: Path) -> None:
    plan = planned(folder, hardware=Hardware((H100,) * 4, 16 * GIB, 4, amx=False))
    assert plan.engine.device == "cuda"
    assert "--block-size" not in plan.command
    assert "--enforce-eager" not in plan.command
    assert value_of(plan, "--data-parallel-size") == "4"
    assert "--tensor-parallel-size" not in plan.command


def test_every_flag_and_variable_has_its_reason(folder: Path) -> None:
    gpus = Hardware((H100,) * 4, 16 * GIB, 4, amx=False)
    named = set()
    for hardware in (CPU, gpus):
        tensor = 2 if hardware.gpus else None
        plan = planned(folder, hardware=hardware, tensor=tensor, lora_rank=8, context=512, block=32)
        explained = dict(plan.explained())
        assert all(explained.values())
        ours = " ".join(f" {setting}" for setting in explained)
        assert all(word in ours for word in plan.command if word.startswith("--max"))
        named |= {setting.split("=")[0].split(" ")[0] for setting in explained}
    assert named == set(REASONS) | set(VARIABLE_REASONS), "no reason without a flag"


def test_flags_of_vllms_own_win_and_are_not_there_twice(folder: Path) -> None:
    extra = ("--block_size=32", "--no-enable-prefix-caching", "--max-logprobs", "5")
    plan = planned(folder, extra=extra)
    assert plan.command[-4:] == extra
    assert "--block-size" not in plan.command
    assert "--enable-prefix-caching" not in plan.command
    assert plan.command.count("--max-logprobs") == 1


def test_a_layout_of_the_operators_own_is_left_alone(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with (folder / "model.safetensors").open("wb") as sparse:
        sparse.truncate(900 * GIB)
    gpus = Hardware((H100,) * 2, 16 * GIB, 4, amx=False)
    with pytest.raises(InputError, match="too little GPU memory"):
        planned(folder, hardware=gpus)
    plan = planned(folder, hardware=gpus, extra=("--pipeline-parallel-size", "12"))
    assert plan.parallel is None


def test_a_key_stands_in_the_environment_and_nowhere_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ICM_API_KEY", "s3cret")
    plan = planned(folder, host="0.0.0.0")  # noqa: S104 - what is tested
    assert plan.environment()["VLLM_API_KEY"] == "s3cret"
    assert plan.key
    for shown in (*plan.command, plan.shown(), repr(plan), str(plan.explained())):
        assert "s3cret" not in shown
    with pytest.raises(InputError, match="set VLLM_API_KEY"):
        planned(folder, extra=("--api-key", "s3cret"))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "gpu7"])  # noqa: S104
def test_an_open_address_wants_a_key(folder: Path, host: str) -> None:
    with pytest.raises(InputError, match=r"set VLLM_API_KEY \(or ICM_API_KEY\)"):
        planned(folder, host=host, dry=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.0.1"])
def test_loopback_does_not(host: str) -> None:
    assert is_loopback(host)


def test_where_a_client_meets_it() -> None:
    assert url_of("0.0.0.0", 80) == "http://127.0.0.1:80"  # noqa: S104
    assert url_of("::", 80) == "http://[::1]:80"
    assert url_of("gpu7", 80) == "http://gpu7:80"


def test_the_operators_own_variables_win(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    plan = planned(folder)
    assert plan.environment()["OMP_NUM_THREADS"] == "7"
    assert "OMP_NUM_THREADS=7" in plan.shown()
    assert plan.threads == "threads: 7, cores: 4; set by OMP_NUM_THREADS"


def test_a_taken_port_is_one_clear_line(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"cannot listen at 127.0.0.1:{port}: Address already"):
            planned(folder, port=port)
        planned(folder, port=port, dry=True)


def test_too_little_memory_is_reported_before_an_hour_of_loading(folder: Path) -> None:
    small = Hardware(gpus=(), memory=3 * GIB, cores=4, amx=False)
    with pytest.raises(InputError, match=r"too little memory: .*0\.0 GB of weights, 2\.1 GB of KV"):
        planned(folder, hardware=small)
    planned(folder, hardware=small, kv_cache_gib=0.5)


def test_weights_of_two_bytes_become_four(folder: Path) -> None:
    with (folder / "model.safetensors").open("wb") as sparse:
        sparse.truncate(5_000_000_000)
    with pytest.raises(InputError, match=r"10\.0 GB of weights"):
        planned(folder, hardware=Hardware((), 12_000_000_000, 4, amx=False))


def test_without_a_plan_for_it_no_flag_is_unexplained() -> None:
    flags = flags_for(ServeOptions(), "m", Engine("cpu", "0.32.0"), CPU, None)
    assert all(flag.name in REASONS for flag in flags)
    assert "VLLM_API_KEY" not in os.environ
