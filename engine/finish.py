"""The end of a training: the figures of best.pt, the last pictures, and what to type next."""

from __future__ import annotations

from data.loader import eval_loader_of
from engine.evaluate import evaluate, write_results
from engine.job import Job
from engine.predictions import EvaluationOptions, tiles_of
from engine.run_log import EpochLog
from engine.state import TrainState
from engine.verdict import NO_VERDICT, verdict_text
from models.predictor import open_predictor
from utils import dist, pictures, plots
from utils.inference_weights import keep_inference_
from utils.log import say
from utils.metrics.build import build_metric
from utils.metrics.detection import DetectionMetric
from utils.metrics.operating import operating_text, thresholds_of, with_operating_point


def finish(job: Job, state: TrainState, log: EpochLog) -> None:
    """Evaluate best.pt; write metrics.json and the last pictures, and print the table and the next command."""
    folder, val, recipe = job.run.folder, job.images.val, job.config.recipe
    predictor = open_predictor(job.run.best, device=job.stepper.device)
    options = EvaluationOptions.of_training(job.config, val.task, val.tiling)
    metric = build_metric(val, max_det=options.max_det)
    loader = job.val_loader if dist.world_size() == 1 else eval_loader_of(val, job.config)
    figures = evaluate(predictor, loader, metric, options, notes=job.notes)
    loader.end()
    protocol = recipe.evaluation.protocol(val.task)
    protocol |= {"image_size": list(job.config.image_size), "precision": predictor.precision}
    protocol["resize"] = predictor.resize
    detects = isinstance(metric, DetectionMetric)  # utils.report compares detectors by their predictions
    protocol |= {"nms": predictor.info.nms, **tiles_of(options.grid)} if detects else {}
    thresholds = None
    if isinstance(metric, DetectionMetric):
        figures = with_operating_point(figures, metric)
        thresholds = thresholds_of(figures)
        figures["verdict"] = {**(state.verdict or NO_VERDICT), "told_apart": state.told_apart}
    # Before metrics.json, which says that all is done.
    keep_inference_(job.run.best, **({"thresholds": thresholds.to_plain()} if thresholds else {}))
    plots.plot_results(folder / "results.csv", folder / "results.jpg")
    pictures.plot_predictions(metric, job.images.pictures(12), val.names, folder / "val_predictions.jpg")
    about = (f"{job.config.model['name']}, best.pt on {job.images.source}, val", f"run folder {folder}")
    figures["protocol"] = protocol
    page = folder / "report.html"
    write_results(folder, figures, metric, val, save_predictions=detects, page=page, about=about)
    log.table.pictures(sorted(folder.glob("*.jpg")))
    if isinstance(metric, DetectionMetric):
        log.table.pr_curves(*metric.pr_curves())
    counted = ", counted by pycocotools" if val.task == "detect" else ""
    say(f"\nbest.pt on {job.images.source}, val, {len(val)} images{counted}:\n{metric.table()}\n")
    auto = ""
    if detects:
        say(f"{operating_text(figures)}\n")
        auto = " --conf-thres auto" if thresholds else ""
    if state.verdict is not None:
        say(f"{verdict_text(state.verdict)}\n")
    source = val.samples[0].path.parent
    grid = options.grid
    tiled = "" if grid is None else f" --tile {grid.size[0]} --overlap {grid.overlap:g}"
    following = f"python detect.py --weights {job.run.best} --source {source}{tiled}{auto}"
    say(f"Results: {folder}, on one page: {page}\nNext: {following}")
