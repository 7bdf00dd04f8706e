"""`server/serve_vllm.py` and `icm-client serve` as a user meets them, where nothing is started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def serve(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("VLLM_API_KEY", "ICM_API_KEY")
    }
    return subprocess.run(
        [sys.executable, ROOT / "server" / "serve_vllm.py", *words],
        env={**kept, "CUDA_VISIBLE_DEVICES": "", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_print_shows_a_command_with_reasons_and_no_key(tmp_path: Path) -> None:
    done = serve("OWNER/MODEL", "--print", ICM_API_KEY="s3cret", ICM_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    command, reasons = done.stdout.split("\n\n", 1)
    assert "\n" not in command
    assert "--model OWNER/MODEL" in command
    assert "--enable-prefix-caching\n    A context is computed once" in reasons
    assert reasons.endswith("Key: from the environment.\n")
    assert "s3cret" not in done.stdout + done.stderr
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_print_names_the_folder_of_a_gguf_file_without_making_it(tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    model.write_bytes(b"GGUF")
    done = serve(str(model), "--print", ICM_CACHE_DIR=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert f"--model {tmp_path}/cache/dequantized/tiny-" in done.stdout
    assert "--served-model-name tiny " in done.stdout
    assert not (tmp_path / "cache" / "dequantized").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("./none",), "Error: ./none: no such file or folder (a hub's model is named OWNER/NAME)"),
        (("A/B", "--print", "--host", "0.0.0.0"), "Error: --host 0.0.0.0 opens the server to"),  # noqa: S104
        (("A/B", "--print", "--", "--api-key=x"), "Error: set VLLM_API_KEY instead of --api"),
        (("A/B", "--device", "cuda"), "Error: no GPU here: use --device cpu"),
        (
            ("A/B", "--print", "--data-parallel", "2"),
            "Error: --tensor-parallel and --data-parallel",
        ),
    ],
)
def test_wrong_input_is_one_line_and_status_2(words: tuple[str, ...], line: str) -> None:
    done = serve(*words)
    assert done.returncode == 2
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1


def test_an_option_that_is_not_there_is_reported_with_what_is_near() -> None:
    done = serve("A/B", "--prot", "80")
    assert done.returncode == 2
    assert "No such option '--prot'" in done.stderr
    assert "--port" in done.stderr
