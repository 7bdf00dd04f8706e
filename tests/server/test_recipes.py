"""The recipes' files: their syntax, and that what they name exists. None of them is run here."""

import re
import subprocess
from importlib import import_module
from pathlib import Path

import pytest
from click import Command
from click.testing import CliRunner

from icm_client.cli.predict import predict_command
from icm_client.cli.serve import serve_command
from icm_client.serving.plan import REASONS, VARIABLE_REASONS

yaml = import_module("yaml")  # untyped, and of the dev extra

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "server" / "recipes"
SHELL = [
    *sorted(RECIPES.glob("*.sh")),
    *sorted(RECIPES.glob("*.sbatch")),
    ROOT / "server" / "install-vllm",
    ROOT / "scripts" / "test-vllm",
]
DOCKERFILES = sorted((RECIPES / "container").iterdir())
YAML = sorted(RECIPES.rglob("*.yaml"))
INSTRUCTIONS = {
    "FROM",
    "WORKDIR",
    "COPY",
    "RUN",
    "USER",
    "ENV",
    "VOLUME",
    "EXPOSE",
    "HEALTHCHECK",
    "ENTRYPOINT",
}


def recipe(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of_all() -> list[tuple[Path, str]]:
    files = [path for path in RECIPES.rglob("*") if path.is_file()]
    return [(path, path.read_text("utf-8")) for path in files]


@pytest.mark.parametrize("script", SHELL, ids=recipe)
def test_scripts_parse(script: Path) -> None:
    done = subprocess.run(
        ["bash", "-n", script],  # noqa: S607 - the one that a user has
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    words = script.read_text("utf-8")
    assert words.startswith("#!/usr/bin/env bash\n")
    assert "set -eu -o pipefail" in words
    assert script.suffix == ".sbatch" or script.stat().st_mode & 0o111, "not executable"


def test_python_inside_of_scripts_compiles() -> None:
    found = 0
    for path, words in text_of_all():
        for block in re.findall(r"<<'PYTHON'\n(.*?)\nPYTHON\n", words, re.DOTALL):
            compile(block, str(path), "exec")
            found += 1
    assert found


@pytest.mark.parametrize("job", sorted(RECIPES.glob("*.sbatch")), ids=recipe)
def test_slurm_directives_stand_before_the_first_command(job: Path) -> None:
    lines = job.read_text("utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if line and line[0] != "#")
    directives = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert len(directives) > 5
    assert max(directives) < first, "Slurm reads no further"
    assert all(re.fullmatch(r"#SBATCH --[a-z-]+=\S+", lines[number]) for number in directives)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=recipe)
def test_dockerfiles_have_their_structure(dockerfile: Path) -> None:
    logical = dockerfile.read_text("utf-8").replace("\\\n", " ").splitlines()
    lines = [line.strip() for line in logical if line.strip() and not line.startswith("#")]
    words = [line.split()[0] for line in lines]
    assert words[0] == "FROM"
    assert set(words) <= INSTRUCTIONS
    assert words.count("ENTRYPOINT") == 1
    assert words.index("USER") < words.index("ENTRYPOINT"), "it would run as root"
    for line in lines:
        if line.startswith("FROM"):
            assert re.search(r":[\w.-]+$", line), "an image without a version"
        if line.startswith("COPY"):
            *sources, _ = line.split()[1:]
            assert all((ROOT / source).exists() for source in sources), line
        if line.startswith("ENTRYPOINT"):
            entry = yaml.safe_load(line.removeprefix("ENTRYPOINT "))
            assert (ROOT / entry[1]).exists()
            assert_options(entry[2:])


@pytest.mark.parametrize("file", YAML, ids=recipe)
def test_yaml_parses(file: Path) -> None:
    assert all(list(yaml.safe_load_all(file.read_text("utf-8"))))


def test_kubernetes_objects_find_each_other() -> None:
    words = (RECIPES / "kubernetes" / "vllm.yaml").read_text("utf-8")
    objects = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(words)}
    for (kind, name), one in objects.items():
        if kind == "Service":
            owner = objects.get(("StatefulSet", name)) or objects["Deployment", name]
            template = owner["spec"]["template"]
            assert one["spec"]["selector"] == template["metadata"]["labels"]
            ports = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
            assert {port["targetPort"] for port in one["spec"]["ports"]} <= ports
        else:
            assert (
                one["spec"]["selector"]["matchLabels"]
                == (one["spec"]["template"]["metadata"]["labels"])
            )
    workers = objects["StatefulSet", "icm-vllm"]
    router = objects["Deployment", "icm-router"]["spec"]["template"]["spec"]["containers"][0]
    urls = [word for word in router["args"] if word.startswith("http://")]
    assert urls == [
        f"http://icm-vllm-{n}.icm-vllm:8000" for n in range(workers["spec"]["replicas"])
    ]
    pod = workers["spec"]["template"]["spec"]
    mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    claimed = {claim["metadata"]["name"] for claim in workers["spec"]["volumeClaimTemplates"]}
    assert mounted == claimed | {volume["name"] for volume in pod["volumes"]}
    assert pod["terminationGracePeriodSeconds"] > 30


def test_ray_serve_has_the_flags_that_reads_need() -> None:
    words = (RECIPES / "ray_serve" / "serve.yaml").read_text("utf-8")
    (application,) = yaml.safe_load(words)["applications"]
    (config,) = application["args"]["llm_configs"]
    engine = config["engine_kwargs"]
    assert {f"--{name.replace('_', '-')}" for name in engine} <= set(REASONS)
    assert engine["enable_prefix_caching"] is True
    assert engine["max_logprobs"] == 128


def test_recipes_start_our_command_with_options_that_it_has() -> None:
    found = 0
    for _, words in text_of_all():
        joined = words.replace("\\\n", " ")
        for line in re.findall(r"python\"? server/serve_vllm\.py (.*)", joined):
            assert_options(line.split(" -- ")[0].split(">")[0].split())
            found += 1
    assert found >= 5


def test_recipes_predict_with_options_that_there_are() -> None:
    joined = (RECIPES / "predict_ray.sbatch").read_text("utf-8").replace("\\\n", " ")
    (words,) = re.findall(r"icm-client predict (.*)", joined)
    assert_options(words.split(), predict_command)
    assert "endpoints+=(--endpoint " in joined


def assert_options(words: list[str], command: Command = serve_command) -> None:
    known = {option for parameter in command.params for option in parameter.opts}
    asked = {word.split("=")[0] for word in words if word.startswith("--") and word != "--"}
    assert asked <= known, asked - known


def test_no_recipe_puts_a_key_into_a_command() -> None:
    for path, words in text_of_all():
        assert "--api-key" not in words, path


def test_the_page_has_every_flag_with_its_reason() -> None:
    page = (ROOT / "docs" / "serving.md").read_text("utf-8")
    for name, reason in (REASONS | VARIABLE_REASONS).items():
        assert f"| `{name}` | {reason} |" in page, name


def test_the_page_names_every_recipe() -> None:
    page = (ROOT / "docs" / "serving.md").read_text("utf-8")
    for path, _ in text_of_all():
        assert recipe(path) in page


def test_help_is_shown_by_the_script_too() -> None:
    shown = CliRunner().invoke(serve_command, ["--help"]).output
    assert "vLLM's own flags go after" in shown
