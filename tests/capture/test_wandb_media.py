# ruff: noqa: E501 - scripts and tables read better on one line
"""Media: histograms, tables and texts are kept on this machine, the rest is accepted and counted."""

SCRIPT = """
    import wandb, numpy as np, torch
    run = wandb.init(project="p")
    run.define_metric("*", step_metric="gs", step_sync=True)
    run.log({"gs": 7, "h": wandb.Histogram([1, 2, 2, 3], num_bins=4), "loss": 1.0})
    run.log({"big": np.arange(100), "t": torch.ones(40), "npz": wandb.Histogram(np_histogram=np.histogram([1, 2, 3], bins=3))})
    run.log({"html": wandb.Html("<b>x</b>"), "tab": wandb.Table(columns=["a", "b"], data=[[1, "x\\ty"], [2, None]])})
    run.log({"img": wandb.Image(np.zeros((2, 2, 3))), "imgs": [wandb.Image("a.png")] * 2, "v": wandb.Video("x.mp4"),
             "audio": wandb.Audio(np.zeros(3), sample_rate=1), "n": {"img": wandb.Image("b.png"), "x": 1}})
    table = wandb.Table(columns=["q"], data=[[1]])
    table.add_data(2); table.add_column("r", [3, 4])
    run.log({"chart": wandb.plot.line(table, "q", "r"), "o3d": wandb.Object3D("m.obj"), "raw": {"_type": "histogram",
             "values": [1, 2], "bins": [0, 1, 2]}})
    artifact = wandb.Artifact("m", type="model", metadata={"a": 1})
    with artifact.new_file("x.txt", mode="w") as file: file.write("x")
    print(run.log_artifact(artifact).wait().name, wandb.save("*.none"), table.get_column("r"))
    for call in (lambda: run.use_artifact("a:latest"), lambda: wandb.Api().run("a/b/c"), lambda: wandb.sweep({})):
        try: call()
        except wandb.Error as error: print(type(error).__name__)
    wandb.alert("title", "words", level=wandb.AlertLevel.WARN)
    run.log({"done": 1})
"""


def test_histograms_tables_and_texts_are_kept_and_the_rest_counted(captured, listener) -> None:
    done = captured(SCRIPT)
    assert done.stdout.splitlines() == ["m [] [3, 4]", "CommError", "CommError", "UsageError"]
    (run_id,) = listener.run_ids()
    logs = listener.rows(run_id)
    assert [row.step for row in logs] == [0, 1, 2, 3, 4, 5]
    assert logs[0].metrics == {"gs": 7, "loss": 1.0}
    assert logs[1].metrics == {"gs": 7}
    assert logs[3].metrics == {"gs": 7, "n.x": 1}
    histograms = {name: value for row in listener.rows(run_id, ("histogram",)) for name, value in row.metrics.items()}
    assert set(histograms) == {"h", "big", "t", "npz", "raw"}
    assert histograms["h"]["counts"] == [1, 0, 2, 1]
    assert sum(histograms["big"]["counts"]) == 100
    assert len(histograms["big"]["edges"]) == 33
    assert histograms["t"]["counts"].count(40.0) == 1
    texts = {name: value for row in listener.rows(run_id, ("text",)) for name, value in row.metrics.items()}
    assert texts["html"] == "<b>x</b>"
    assert texts["tab"].splitlines() == ["a\tb", "1\tx y", "2\tNone"]
    assert texts["alert/title"] == "WARN: words"
    assert texts["chart"].splitlines() == ["q\tr", "1\t3", "2\t4"]
    rejected = listener.projector(run_id)[0].state.ranks[0].rejected
    assert rejected["media_not_kept"] == 7
    assert rejected["artifact_not_kept"] == 2
    assert rejected["file_not_kept"] == 1
