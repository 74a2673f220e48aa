"""Pictures of the runs in MLflow's user interface, for `docs/mlflow.md`.

`python -m benchmarks.screenshots --chromium FILE --run demo --sweep shots --model tiles`.  In: a headless Chromium (of
any origin; none is installed with this project) and a store with those runs.  Out: `docs/images/mlflow_*.png`, of the
pages that `make ui` serves.

A page is ready when its text and pictures are there and nothing in it moves any more; nothing waits for a fixed time.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from PIL import Image

from pipeline.config.schema import TrackingConfig
from pipeline.tracking.store import KEY_TAG, Store, local_uri
from pipeline.tracking.views import RESULTS, view_key, view_page

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT = 1400, 900
PATIENCE_S = 240.0
POLL_S = 0.25
_CHROMIUM = (
    "--headless=shell", "--no-sandbox", "--no-zygote", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
    "--disable-background-networking", "--force-color-profile=srgb", "--remote-debugging-port=0",
    # With a mouse that rests elsewhere: plots show their tools only below it.
    "--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4",
)  # fmt: skip
_WITHOUT_ASSISTANT = """
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
"""
"""Its panel covers a quarter of the page until it is closed for the first time."""


@dataclass(frozen=True, kw_only=True)
class Shot:
    """A page and when it is ready."""

    name: str
    """Of the file, after `mlflow_`."""
    page: str
    """Below `/#/`."""
    texts: Sequence[str]
    """What must be readable."""
    pictures: int = 0
    """How many drawings of at least 150 pixels there must be: plots, images, frames."""


def shots(store: Store, run: str, sweep: str, model: str) -> list[Shot]:
    """The pages of the documentation, for these runs."""
    runs, here = f"experiments/{store.experiment_id}/runs", "?workflowType=machine_learning"
    pipeline, trials = _run(store, run, "run"), _run(store, sweep, "sweep")
    training = _run(store, "meta_train", "stage", below=pipeline)
    view = view_page(store.experiment_id, view_key(trials.data.tags[KEY_TAG])).removeprefix("#/")
    overview = view_page(store.experiment_id, RESULTS).removeprefix("#/")
    page, version = f"{runs}/{pipeline.info.run_id}", f"models/{model}/versions"
    newest = max(int(one.version) for one in store.client.search_model_versions(f"name = '{model}'"))
    return [
        Shot(name="runs", page=overview, texts=[run, sweep]),
        Shot(name="run", page=page + here, texts=["Metrics (", "Child runs", "Parameters ("]),
        Shot(name="charts", page=f"{runs}/{training.info.run_id}/model-metrics{here}", texts=["loss"], pictures=4),
        Shot(name="captions", page=f"{page}/artifacts/captions.html{here}", texts=["captions.html"], pictures=1),
        Shot(name="sweep", page=view, texts=[f"Trials of {sweep}", "matching runs"]),
        Shot(name="parallel", page=view + "&compareRunsMode=CHART", texts=["Parallel Coordinates"], pictures=1),
        Shot(name="model", page=f"{version}/{newest}{here}", texts=["Source Run", "Captions ", "Schema"]),
    ]


def _run(store: Store, name: str, kind: str, *, below: Any = None) -> Any:
    """The newest run of that name."""
    query = f"attributes.run_name = '{name}' AND tags.kind = '{kind}'"
    query += f" AND tags.`mlflow.parentRunId` = '{below.info.run_id}'" if below is not None else ""
    found = store.client.search_runs([store.experiment_id], query, order_by=["attributes.start_time DESC"])
    if not found:
        raise ValueError(f"{store.uri} holds no {kind} {name!r}")
    return found[0]


class Page:
    """A tab of a browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._ids = socket, itertools.count(1)

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the DevTools protocol, and its answer."""
        number = next(self._ids)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while True:
            message = await self._socket.receive_json(timeout=PATIENCE_S)
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return dict(message["result"])

    async def value(self, expression: str) -> Any:
        """What JavaScript says."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    async def until(self, expression: str, what: str) -> None:
        """Wait until JavaScript says yes."""
        began = time.monotonic()
        while not await self.value(expression):
            if time.monotonic() - began > PATIENCE_S:
                shown = await self.value("document.body.innerText")
                raise TimeoutError(f"{what} did not appear within {PATIENCE_S:.0f} s; the page says:\n{shown}")
            await asyncio.sleep(POLL_S)

    async def still(self) -> bytes:
        """A picture, once three in a row are the same."""
        began, seen = time.monotonic(), [b"", b""]
        while True:
            png = base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"])
            if all(png == one for one in seen):
                return png
            if time.monotonic() - began > PATIENCE_S:
                raise TimeoutError(f"the page still moves after {PATIENCE_S:.0f} s")
            seen = [seen[1], png]
            await asyncio.sleep(2 * POLL_S)


async def take(page: Page, address: str, shot: Shot) -> bytes:
    """Open a page, wait for it, take it."""
    await page.call("Page.navigate", url="about:blank")  # a change of the part behind # alone would not load anything
    await page.call("Page.navigate", url=f"{address}/#/{shot.page}")
    for text in shot.texts:
        await page.until(f"(document.body?.innerText ?? '').includes({json.dumps(text)})", f"{shot.name}: {text!r}")
    drawn = (
        "[...document.querySelectorAll('img, canvas, svg, iframe')].filter("
        "one => one.getBoundingClientRect().width >= 150 && one.complete !== false).length"
    )
    await page.until(f"{drawn} >= {shot.pictures}", f"{shot.name}: {shot.pictures} pictures")
    return await page.still()


@asynccontextmanager
async def browser(chromium: Path) -> AsyncIterator[Page]:
    """A tab of a headless browser with an empty profile."""
    with tempfile.TemporaryDirectory(prefix="semi-chromium-") as profile:
        command = [str(chromium), *_CHROMIUM, f"--user-data-dir={profile}", f"--window-size={WIDTH},{HEIGHT}"]
        process = await asyncio.create_subprocess_exec(*command, "about:blank", stderr=asyncio.subprocess.PIPE)
        assert process.stderr is not None
        try:
            async for line in process.stderr:
                if found := re.search(rb"ws://([^/]+)/", line):
                    break
            else:
                raise RuntimeError(f"{chromium} ended with code {await process.wait()}")
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://{found[1].decode()}/json/list") as answer:
                    tab = next(one for one in await answer.json() if one["type"] == "page")
                async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    page = Page(socket)
                    size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
                    await page.call("Page.enable")
                    await page.call("Page.addScriptToEvaluateOnNewDocument", source=_WITHOUT_ASSISTANT)
                    await page.call("Emulation.setDeviceMetricsOverride", **size)
                    yield page
        finally:
            if process.returncode is None:  # else it crashed, which is the error to be seen
                process.terminate()
            await process.wait()


@contextmanager
def interface(runs_dir: Path) -> Iterator[str]:
    """The address of `make ui`, while the block runs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(ROOT / ".venv/bin/python"), "-m", "jobs.ui", "--port", str(port), "--set", f"runs_dir={runs_dir}"]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as server:
        try:
            address, began = f"http://127.0.0.1:{port}", time.monotonic()
            while True:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                if server.poll() is not None or time.monotonic() - began > PATIENCE_S:
                    raise TimeoutError(f"{' '.join(command)} does not answer at {address}")
                time.sleep(POLL_S)
            yield address
        finally:
            os.killpg(server.pid, signal.SIGTERM)


def small(png: bytes) -> bytes:
    """The picture in 256 colours: a third of the bytes, and no difference to see on pages of text and lines."""
    stream = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    image.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


async def _take_all(chromium: Path, address: str, todo: Sequence[Shot], out: Path) -> None:
    async with browser(chromium) as page:
        for shot in todo:
            file = out / f"mlflow_{shot.name}.png"
            file.write_bytes(small(await take(page, address, shot)))
            print(f"{file}  {file.stat().st_size / 1000:.0f} kB", flush=True)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--chromium", type=Path, required=True, metavar="FILE", help="a headless Chromium")
    parser.add_argument("--run", default="demo", metavar="NAME", help="a finished run of all stages (default: demo)")
    parser.add_argument("--sweep", required=True, metavar="NAME", help="a finished sweep")
    parser.add_argument("--model", required=True, metavar="NAME", help="a registered model")
    parser.add_argument("--only", nargs="*", metavar="SHOT", help="some of the pictures")
    parser.add_argument("--runs-dir", type=Path, default=ROOT / "runs", metavar="DIR", help="(default: runs)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images", metavar="DIR", help="(docs/images)")
    args = parser.parse_args()
    todo = shots(Store(local_uri(args.runs_dir), TrackingConfig().experiment), args.run, args.sweep, args.model)
    chosen = [shot for shot in todo if not args.only or shot.name in args.only]
    with interface(args.runs_dir.resolve()) as address:
        asyncio.run(_take_all(args.chromium.resolve(), address, chosen, args.out))


if __name__ == "__main__":
    main()
