"""The data of reports against the plans that they show."""

import json

import numpy as np
import onnx
import pytest
from face_models import model, node, value
from typer.testing import CliRunner

import onnxplan
from onnxplan.cli.commands import application
from onnxplan.explaining import stages_of_run
from onnxplan.report import collect, render
from onnxplan.report.collecting import plan_edges
from onnxplan.report.layout import Edge, arrange

W = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
X = np.random.default_rng(1).standard_normal((8, 8)).astype(np.float32)

NODES = [
    node("Neg", "w", "folded", name="negate"),
    node("MatMul", "x folded", "p", name="product"),
    node("Relu", "p", "r", name="relu"),
    node("Shape", "r", "s", name="shape"),
    node("Reshape", "r s", "q", name="reshape"),
    node("Softmax", "q", "y", name="soft"),
    node("Sin", "x", "unused", name="dead"),
]


def report_of(proto, feeds, profiled=True):
    with onnxplan.InferenceSession(proto, threads=1) as session:
        stages = stages_of_run(session, feeds)
        profile = session.profile(feeds, 0.01) if profiled else None
        return collect(session, "m.onnx", stages, profile), [stage.executor.plan for stage in stages]


def small():
    return model(NODES, [value("x", [8, 8])], ["y"], w=W)


def staged():
    """A model that ends a stage, since the number of non-zero elements decides on a shape."""
    nodes = [
        node("Relu", "x", "r", name="relu"),
        node("NonZero", "r", "n", name="nonzero"),
        node("Cast", "n", "y", name="cast", to=onnx.TensorProto.FLOAT),
    ]
    return model(nodes, [value("x", [8, 8])], ["y"])


def test_steps_and_buffers_are_those_of_the_plan():
    found, (plan,) = report_of(small(), {"x": X})
    (stage,) = found["stages"]
    assert len(stage["steps"]) == len(plan.steps)
    for shown, step in zip(stage["steps"], plan.steps, strict=True):
        assert (shown["flops"], shown["bytes"], shown["estimated"]) == (step.flops, step.bytes, step.seconds)
        assert (shown["family"], shown["nodes"]) == (step.kernel.family, step.nodes)
        assert shown["seconds"] > 0
    assert [tuple(each.values()) for each in stage["buffers"]] == [
        (each.name, each.space, each.index, each.offset, each.size, each.first, each.last)
        for each in plan.buffers
    ]
    assert (stage["arena"], stage["bound"]) == (plan.arena_bytes, plan.arena_lower_bound)
    assert found["run"]["runs"] >= 5
    assert found["ceilings"]["flops"] > 0


def test_every_node_is_there_once_and_says_where_it_went():
    found, _ = report_of(small(), {"x": X})
    fates = {each["name"]: each["fate"] for each in found["nodes"]}
    assert len(fates) == len(found["nodes"]) == len(NODES)
    assert fates == {
        "negate": "folded",
        "product": "steps",
        "relu": "steps",
        "shape": "shapes",
        "reshape": "view",
        "soft": "steps",
        "dead": "removed",
    }


def test_stages_follow_each_other_and_nodes_know_theirs():
    found, plans = report_of(staged(), {"x": X})
    assert len(found["stages"]) == len(plans) == 2
    assert "nonzero depends on data" in found["stages"][0]["ends"]
    assert found["stages"][1]["ends"] == ""
    assert found["complete"]
    for each in found["nodes"]:
        for stage, step in each["steps"]:
            assert each["name"] in plans[stage].steps[step].nodes


def test_without_measuring_there_are_no_times_and_later_stages_are_open():
    with onnxplan.InferenceSession(staged(), threads=1) as session:
        first = stages_of_run(session, {"x": X})[:1]
        found = collect(session, "m.onnx", first)
    assert found["run"] is found["ceilings"] is None
    assert not found["complete"]
    assert {step["seconds"] for stage in found["stages"] for step in stage["steps"]} == {None}
    assert {each["name"]: each["fate"] for each in found["nodes"]}["cast"] == "not lowered"


def test_a_profile_of_other_stages_is_refused():
    with onnxplan.InferenceSession(staged(), threads=1) as session:
        profile = session.profile({"x": X}, 0.01)
        stages = stages_of_run(session, {"x": X})
        with pytest.raises(ValueError, match="other stages"):
            collect(session, "m.onnx", stages[:1], profile)


def test_edges_join_writers_and_readers():
    _, (plan,) = report_of(small(), {"x": X}, profiled=False)
    boxes, edges = plan_edges(plan)
    assert boxes == 2 + len(plan.steps)
    pairs = {(edge.source, edge.target) for edge in edges}
    assert pairs == {(number, number + 1) for number in range(boxes - 1)}
    assert {edge.size for edge in edges} == {8 * 8 * 4}


def random_edges(boxes, seed):
    random = np.random.default_rng(seed)
    edges = [Edge(target - 1, target, target - 1, 4) for target in range(1, boxes)]
    for _ in range(boxes):
        source, target = sorted(random.choice(boxes, 2, replace=False).tolist())
        edges.append(Edge(source, target, source, int(random.integers(1, 100))))
    return edges


@pytest.mark.parametrize("boxes", [0, 1, 2, 40, 300])
def test_no_two_boxes_share_a_place_and_no_two_tensors_a_lane(boxes):
    edges = random_edges(boxes, boxes) if boxes > 1 else []
    found = arrange(boxes, edges)
    assert len(set(zip(found.rows, found.columns, strict=True))) == boxes
    held = {}
    for edge, lane in zip(edges, found.lanes, strict=True):
        assert found.rows[edge.source] < found.rows[edge.target]
        assert (lane is None) == (found.rows[edge.target] == found.rows[edge.source] + 1)
        if lane is not None:
            assert lane[1] < found.tracks[lane[0]]
            for row in range(found.rows[edge.source] + 1, found.rows[edge.target]):
                key = edge.source, edge.buffer
                assert held.setdefault((*lane, row), key) == key


def test_an_edge_that_leads_back_is_refused():
    with pytest.raises(ValueError, match="does not lead forward"):
        arrange(2, [Edge(1, 0, 0, 4)])


def test_names_cannot_end_the_data_and_marks_in_names_stay():
    name = "</script><!-- @script@"
    proto = model([node("Relu", "x", "y", name=name)], [value("x", [2])], ["y"])
    found, _ = report_of(proto, {"x": np.ones(2, np.float32)}, profiled=False)
    page = render(found)
    start = page.index('id="data">') + len('id="data">')
    text = page[start : page.index("</script>", start)]
    assert json.loads(text) == json.loads(json.dumps(found))
    assert json.loads(text)["nodes"][0]["name"] == name


def test_the_command_writes_a_page(tmp_path):
    file, page = tmp_path / "m.onnx", tmp_path / "r.html"
    onnx.save(small(), file)
    run = CliRunner().invoke(application, ["report", str(file), "-o", str(page), "--no-measure"])
    assert run.exit_code == 0, run.output
    assert "in 1 stage" in run.output
    assert "m.onnx" in page.read_text()
    refused = CliRunner().invoke(
        application, ["report", str(file), "-o", str(page), "--no-measure", "--input", "x=x.npy"]
    )
    assert refused.exit_code == 2
