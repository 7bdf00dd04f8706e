"""Print docs/cli.md: every command's help."""

from click.testing import CliRunner

from icm_client.cli.main import cli

print("# The command line\n\nWritten by `scripts/docs`.")
for words in ([], ["label"]):
    command = " ".join(["icm-client", *words])
    shown = CliRunner().invoke(cli, [*words, "--help"], prog_name="icm-client").output
    print(f"\n## {command}\n\n```\n{shown}```")
