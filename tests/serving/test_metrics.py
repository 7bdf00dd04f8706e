"""vLLM's metrics, and the command that watches them, against a real HTTP server."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from click.testing import CliRunner

from icm_client.cli.watch import watch_command
from icm_client.errors import MalformedAnswer
from icm_client.serving.metrics import Snapshot, rates_between, samples_in

BODY = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="a b{{}}\\"c"}} 3.0
vllm:num_requests_running{{engine="1",model_name="m"}} 2.0
vllm:num_requests_waiting{{engine="0",model_name="m"}} 7.0
vllm:kv_cache_usage_perc{{engine="0",model_name="m"}} 0.25
vllm:kv_cache_usage_perc{{engine="1",model_name="m"}} 0.5
vllm:prefix_cache_queries_total{{engine="0",model_name="m"}} {queried}
vllm:prefix_cache_hits_total{{engine="0",model_name="m"}} {hit}
vllm:prompt_tokens_total{{engine="0",model_name="m"}} {queried}
vllm:generation_tokens_total{{engine="0",model_name="m"}} 1e2
vllm:request_success_total{{engine="0",finished_reason="length",model_name="m"}} {finished}
vllm:request_success_total{{engine="0",finished_reason="stop",model_name="m"}} 1.0
vllm:admission_rejections_total{{engine="0",reason="max_num_queued_reqs"}} 4.0
not a sample
vllm:odd NotANumber
"""


def body(queried: float, hit: float, finished: float) -> bytes:
    return BODY.format(queried=queried, hit=hit, finished=finished).encode()


def test_a_snapshot_is_over_all_replicas() -> None:
    snapshot = Snapshot.parse(body(1000, 900, 10))
    assert (snapshot.running, snapshot.waiting, snapshot.kv_use) == (5, 7, 0.5)
    assert (snapshot.finished, snapshot.rejected, snapshot.generated) == (11, 4, 100)
    assert snapshot.preempted == 0
    assert "vllm:odd" not in samples_in(BODY)


def test_what_is_not_vllms_is_refused() -> None:
    with pytest.raises(MalformedAnswer, match="not vLLM's"):
        Snapshot.parse(b"llamacpp:requests_processing 1\n")


def test_rates_are_those_of_the_interval() -> None:
    rates = rates_between(
        Snapshot.parse(body(1000, 900, 10)), Snapshot.parse(body(3000, 2500, 30)), 2.0
    )
    assert rates.hit_rate == pytest.approx(0.8)
    assert (rates.prompt_tokens, rates.computed_tokens, rates.prompts) == (1000, 200, 10)
    assert rates.rejected == 0


def test_a_server_that_was_started_anew_is_counted_from_its_start() -> None:
    rates = rates_between(
        Snapshot.parse(body(9000, 100, 90)), Snapshot.parse(body(500, 400, 4)), 1.0
    )
    assert rates.hit_rate == pytest.approx(0.8)
    assert rates.prompt_tokens == 500


def test_an_idle_server_has_no_hit_rate() -> None:
    still = Snapshot.parse(body(1000, 900, 10))
    assert rates_between(still, still, 1.0).hit_rate is None


@pytest.fixture
def served() -> Iterator[str]:
    """A server whose counters grow with every look, and which fails the third one."""
    looks = 0

    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            nonlocal looks
            looks += 1
            self.send_response(500 if looks == 3 else 200)
            self.end_headers()
            self.wfile.write(body(1000 * looks, 750 * looks, 10 * looks))

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Metrics)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_watch_goes_on_where_the_server_fails_to_answer(served: str) -> None:
    done = CliRunner().invoke(
        watch_command, ["-e", served, "--interval", "0.1", "-n", "3", "--json"]
    )
    assert done.exit_code == 0, done.output
    first, second, third = map(json.loads, done.stdout.splitlines())
    assert first["rates"]["hit_rate"] == third["rates"]["hit_rate"] == 0.75
    assert "500" in second["error"]
    assert third["running"] == 5


def test_watch_prints_a_line_each_interval_where_there_is_no_terminal(served: str) -> None:
    done = CliRunner().invoke(watch_command, ["-e", served, "--interval", "0.1", "-n", "2"])
    heading, line, failed = done.output.splitlines()
    assert "KV use  prefix hits  prompt tokens/s  computed/s  prompts/s" in heading
    assert line.split()[:4] == ["5", "7", "50%", "75%"]
    assert failed.startswith("no answer: ")
