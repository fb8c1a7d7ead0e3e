"""The search service under uvicorn: answers, metrics, a free event loop, and its end."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from prometheus_client.parser import text_string_to_metric_families

import onnxplan
from examples.search_service import PAD_TOKENS, minilm, search
from tests.examples.small_service import ENTRIES, WORDS, application, assets

ROOT = Path(__file__).parents[2]
QUERIES = [" ".join(WORDS[number:] + WORDS[:number]) for number in range(12)]


def fetch(url, body=None):
    """Status and text of an answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def samples(url):
    status, text = fetch(f"{url}/metrics")
    assert status == 200
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name, *sorted(sample.labels.values())] = sample.value
    return found


@pytest.fixture(scope="module")
def service():
    """A process of its own, its address and what it has written so far."""
    command = [sys.executable, "-m", "uvicorn", "--factory", "tests.examples.small_service:application"]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", "0"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    lines = []
    for line in process.stderr:
        lines.append(line)
        if found := re.search(r"running on (http://127\.0\.0\.1:\d+)", line):
            break
    else:
        pytest.fail("".join(lines))
    yield process, found[1], lines
    process.kill()
    process.wait()


def test_concurrent_requests_get_their_own_answers(service):
    _, url, _ = service
    before = samples(url)
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda query: fetch(f"{url}/search", {"query": query, "top": 4}), QUERIES))
    made = assets()
    made.tokenizer.enable_padding(pad_to_multiple_of=PAD_TOKENS)
    with onnxplan.InferenceSession(made.model) as session:

        def embed(texts):
            return session.run_sync(minilm.tokenize(made.tokenizer, texts))["embedding"].numpy()

        embeddings = embed([text for _, text in ENTRIES])
        for query, (status, text) in zip(QUERIES, answers, strict=True):
            assert status == 200
            expected = search(embeddings, embed([query])[0], 4)
            np.testing.assert_allclose(
                [match["score"] for match in json.loads(text)], [score for _, score in expected], atol=1e-4
            )
            assert json.loads(text)[0]["text"] in {text for _, text in ENTRIES}
    after = samples(url)
    changed = {key: after[key] - before.get(key, 0) for key in after}
    assert changed["search_batch_size_sum",] == len(QUERIES)
    runs = changed["onnxplan_runs_total", "cpu", "encoder", "ok"]
    assert runs == changed["search_batch_size_count",] <= len(QUERIES)
    assert after["onnxplan_sessions", "cpu", "encoder"] == 1
    assert after["onnxplan_runs_in_flight", "cpu", "encoder"] == 0


@pytest.mark.parametrize("body", [{}, {"query": ""}, {"query": "sea", "top": 0}, {"query": "x" * 2001}])
def test_bad_requests_are_refused(service, body):
    status, text = fetch(f"{service[1]}/search", body)
    assert status == 422
    assert "query" in text or "top" in text


def test_the_service_ends_cleanly(service):
    """The last test of its process: what is asked before the signal is answered."""
    process, url, lines = service
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(fetch, f"{url}/search", {"query": query}) for query in QUERIES[:4]]
        assert [answer.result()[0] for answer in answers] == [200] * 4
    os.kill(process.pid, signal.SIGTERM)
    _, rest = process.communicate(timeout=60)
    text = "".join(lines) + rest
    assert "Application shutdown complete" in text
    assert "Traceback" not in text
    assert process.returncode in (0, -signal.SIGTERM)


def test_the_event_loop_stays_free():
    """While a long run goes on in the service, its event loop turns and it answers others."""

    async def main():
        server = uvicorn.Server(uvicorn.Config(application(), host="127.0.0.1", port=0, log_level="warning"))
        serving = asyncio.create_task(server.serve())
        while not server.started:
            assert not serving.done()
            await asyncio.sleep(0.01)
        (socket,) = server.servers[0].sockets
        url = f"http://127.0.0.1:{socket.getsockname()[1]}"
        long = asyncio.create_task(asyncio.to_thread(fetch, f"{url}/search", {"query": "sea wind " * 200}))
        turns, healthy = 0, 0
        probe = asyncio.create_task(asyncio.to_thread(fetch, f"{url}/health"))
        while not long.done():
            await asyncio.sleep(0)
            turns += 1
            if probe.done():
                healthy += probe.result()[0] == 200
                probe = asyncio.create_task(asyncio.to_thread(fetch, f"{url}/health"))
        status, text = long.result()
        await probe
        server.should_exit = True
        await serving
        return status, json.loads(text), turns, healthy

    status, matches, turns, healthy = asyncio.run(main())
    assert status == 200
    assert len(matches) == 3
    assert turns > 20
    assert healthy >= 1
