"""Searches sentences by meaning: embeds a corpus with MiniLM, then ranks it for each query.

    python -m examples.semantic_search
    python -m examples.semantic_search "why can't I sleep?" "fast lookup by key" --top 5
    python -m examples.semantic_search --engine onnxruntime

Needs the packages of the `examples` group, and onnxruntime only for the last form.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
import onnx
import typer
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from examples import corpus, minilm

SAMPLE_QUERIES = (
    "What should I do to sleep better?",
    "Why does the sea level rise?",
    "How do I stop two threads from corrupting shared data?",
    "bike race tactics",
    "Should I bet on one stock or buy the whole market?",
    "creatures that navigate by sound",
    "My sink will not drain",
    "the night the border in Berlin opened",
)

Embedder = Callable[[dict[str, np.ndarray]], np.ndarray]


class Engine(enum.StrEnum):
    """What runs the model."""

    ONNXPLAN = "onnxplan"
    ONNXRUNTIME = "onnxruntime"


def load_engine(engine: Engine, model: onnx.ModelProto, device: str) -> Embedder:
    """A function from the model's feeds to its embeddings, float32 (batch, 384).

    Raises:
        typer.BadParameter: `engine` is ONNX Runtime, used here on the CPU only, and `device` is another.
    """
    if engine is Engine.ONNXPLAN:
        import onnxplan

        session = onnxplan.InferenceSession(model, device=device)
        return lambda feeds: session.run_sync(feeds)["embedding"].numpy()
    if device != "cpu":
        raise typer.BadParameter(f"the onnxruntime engine runs on the cpu only, not on {device}")
    import onnxruntime

    peer = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda feeds: peer.run(["embedding"], feeds)[0]


def embed(embedder: Embedder, tokenizer: Tokenizer, texts: Sequence[str], batch_size: int) -> np.ndarray:
    """One embedding of length 1 for each text, float32 (len(texts), 384), in the order of the texts."""
    # Texts of like length share a batch: less padding to compute.
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    embeddings = np.empty((len(texts), minilm.WIDTH), dtype=np.float32)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        embeddings[rows] = embedder(minilm.tokenize(tokenizer, [texts[row] for row in rows]))
    return embeddings


def search(corpus_embeddings: np.ndarray, query_embedding: np.ndarray, top: int) -> list[tuple[int, float]]:
    """The `top` nearest rows by cosine similarity, best first, as (row, score)."""
    scores = corpus_embeddings @ query_embedding
    return [(int(row), float(scores[row])) for row in np.argsort(-scores)[:top]]


def main(
    queries: Annotated[
        list[str] | None, typer.Argument(help="Questions; samples where none is given.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Matches to show for each query.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, help="Sentences embedded in one run.")] = 32,
    engine: Annotated[Engine, typer.Option(help="What runs the model.")] = Engine.ONNXPLAN,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or auto.")] = "cpu",
) -> None:
    """Prints the sentences that are nearest in meaning to each query."""
    console = Console()
    questions = queries or list(SAMPLE_QUERIES)
    entries = corpus.sentences()

    with console.status("building the model"):
        tokenizer = minilm.load_tokenizer()
        embedder = load_engine(engine, minilm.build_model(minilm.load_weights()), device)
    with console.status(f"embedding {len(entries)} sentences"):
        start = time.perf_counter()
        embeddings = embed(embedder, tokenizer, [text for _, text in entries], batch_size)
        elapsed = time.perf_counter() - start

    table = Table("query", "score", "topic", "sentence", title=f"best matches of {len(entries)} sentences")
    for question, embedding in zip(questions, embed(embedder, tokenizer, questions, batch_size), strict=True):
        for rank, (row, score) in enumerate(search(embeddings, embedding, top)):
            topic, text = entries[row]
            table.add_row("" if rank else question, f"{score:.3f}", topic, text, end_section=rank == top - 1)
    console.print(table)
    console.print(f"{engine} on {device}: {len(entries)} sentences embedded in {elapsed:.2f} s")


if __name__ == "__main__":
    typer.run(main)
