"""A web service that searches sentences by meaning; requests that arrive together are embedded in one run.

    python -m examples.search_service --port 8000
    curl -s localhost:8000/search -H 'content-type: application/json' -d '{"query": "bike race tactics"}'
    curl -s localhost:8000/metrics

Needs the packages of the `examples` group.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
import onnx
import typer
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, generate_latest
from pydantic import BaseModel, Field
from tokenizers import Tokenizer

import onnxplan
from examples import corpus, minilm
from examples.batching import Batcher, OverloadedError
from examples.semantic_search import search

MAX_BATCH = 32
PAD_TOKENS = 32
"""Texts are padded to a multiple of so many tokens, and batches to a power of two: that bounds the plans."""

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Assets:
    """An encoder with inputs ``input_ids`` and ``attention_mask``, int64 (batch, sequence), and the output
    ``embedding``, float32 (batch, width), its tokenizer, and what is searched: pairs of topic and text.
    """

    model: onnx.ModelProto
    tokenizer: Tokenizer
    entries: Sequence[tuple[str, str]]


class Query(BaseModel):
    """What to search for."""

    query: str = Field(min_length=1, max_length=2000)
    top: int = Field(default=3, ge=1, le=20)


class Match(BaseModel):
    """A sentence that was found, with the cosine of its embedding and the query's."""

    topic: str
    text: str
    score: float


class Encoder:
    """Embeds texts with a session; ``sizes`` counts how many were in a batch."""

    def __init__(self, session: onnxplan.InferenceSession, tokenizer: Tokenizer, sizes: Histogram) -> None:
        self._session = session
        self._tokenizer = tokenizer
        self._sizes = sizes

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """One embedding for each of up to :data:`MAX_BATCH` texts."""
        rows = 1 << (len(texts) - 1).bit_length()
        padded = [*texts, *[""] * (rows - len(texts))]
        # Tokenizing takes milliseconds, for which the event loop is not to stand still.
        feeds = await asyncio.to_thread(minilm.tokenize, self._tokenizer, padded)
        results = await self._session.run(feeds)
        self._sizes.observe(len(texts))
        return list(results["embedding"].numpy()[: len(texts)])

    async def embed_all(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embeddings of any number of texts, (len(texts), width)."""
        starts = range(0, len(texts), MAX_BATCH)
        return np.stack(
            [row for start in starts for row in await self.embed(texts[start : start + MAX_BATCH])]
        )


def create_app(load: Callable[[], Assets]) -> FastAPI:
    """The service; ``load`` is called on a thread when it starts."""
    registry = CollectorRegistry()
    sizes = Histogram(
        "search_batch_size", "Texts embedded in one run.", registry=registry, buckets=(1, 2, 4, 8, 16, 32)
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        assets = await asyncio.to_thread(load)
        assets.tokenizer.enable_padding(pad_to_multiple_of=PAD_TOKENS)
        with onnxplan.instrument(prometheus=registry):
            session = await onnxplan.InferenceSession.create(assets.model, name="encoder", max_plans=64)
            async with session:
                # Short queries then find their plans, in batches of any size.
                shapes = [(1 << power, PAD_TOKENS) for power in range(MAX_BATCH.bit_length())]
                await session.warmup([dict.fromkeys(session.input_names, shape) for shape in shapes])
                encoder = Encoder(session, assets.tokenizer, sizes)
                app.state.entries = assets.entries
                app.state.embeddings = await encoder.embed_all([text for _, text in assets.entries])
                async with Batcher(encoder.embed, max_batch=MAX_BATCH) as app.state.batcher:
                    yield

    app = FastAPI(title="Semantic search", lifespan=lifespan)

    @app.post("/search")
    async def find(query: Query, request: Request) -> list[Match]:
        """The sentences that are nearest in meaning to the query, best first."""
        state = request.app.state
        try:
            embedding = await state.batcher.submit(query.query)
        except OverloadedError as error:
            raise HTTPException(503, str(error), {"Retry-After": "1"}) from error
        return [
            Match(topic=state.entries[row][0], text=state.entries[row][1], score=score)
            for row, score in search(state.embeddings, embedding, query.top)
        ]

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Answers while the event loop is free."""
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        """What Prometheus scrapes."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


def load_minilm() -> Assets:
    """MiniLM-L6 with its weights, and the sentences of the example."""
    model = minilm.build_model(minilm.load_weights())
    return Assets(model, minilm.load_tokenizer(), corpus.sentences())


def main(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8000,
) -> None:
    """Serves searches until it is interrupted."""
    uvicorn.run(create_app(load_minilm), host=host, port=port)


if __name__ == "__main__":
    typer.run(main)
