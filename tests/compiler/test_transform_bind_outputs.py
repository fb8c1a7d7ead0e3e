from transforming import Sketch, transform

from onnxplan.compiler.passes.bind_outputs import bind_outputs


def assert_bound(program):
    storages = [view.storage for view in program.outputs.values()]
    assert len(set(storages)) == len(storages)
    written = program.writers()
    for view in program.outputs.values():
        assert view.is_dense
        assert view.offset == 0
        assert view.size == view.storage.size
        assert view.storage in written


def test_views_that_are_no_storage_of_their_own_are_copied():
    b = Sketch()
    x = b.input("x", 2, 3)
    y = b.scalar("neg", x)
    outputs = {
        "same": y,
        "again": y,
        "flat": y.reshape((6,)),
        "turned": y.transpose((1, 0)),
        "part": y.slice(0, 0, 1),
        "given": x,
        "fixed": b.weights("w", 2),
    }
    program = transform(
        b.program(**outputs),
        bind_outputs,
        """
        %2:float32[2, 3] = map[neg(x0)](x:float32[2, 3])
        """,
        """
        %2:float32[2, 3] = map[neg(x0)](x:float32[2, 3])
        again:float32[2, 3] = copy[x0](%2:float32[2, 3])
        flat:float32[6] = copy[x0](%2:float32[6])
        turned:float32[3, 2] = copy[x0](%2:float32[3, 2]@0[1, 3])
        part:float32[1, 3] = copy[x0](%2:float32[1, 3])
        given:float32[2, 3] = copy[x0](x:float32[2, 3])
        fixed:float32[2] = copy[x0](w:float32[2])
        """,
    )
    assert_bound(program)
    assert {name: view.shape for name, view in program.outputs.items()} == {
        name: view.shape for name, view in outputs.items()
    }


def test_a_reshaped_result_takes_its_shape_without_a_copy():
    b = Sketch()
    program = transform(
        b.program(y=b.scalar("neg", b.input("x", 2, 3)).reshape((3, 2))),
        bind_outputs,
        """
        %2:float32[2, 3] = map[neg(x0)](x:float32[2, 3])
        """,
        """
        %2:float32[2, 3] = map[neg(x0)](x:float32[2, 3])
        """,
    )
    assert_bound(program)
    assert program.outputs["y"].shape == (3, 2)


def test_binding_twice_changes_nothing():
    b = Sketch()
    program = bind_outputs(b.program(y=b.input("x", 2), z=b.scalar("neg", b.inputs["x"])))
    before = str(program)
    assert str(bind_outputs(program)) == before
