"""evaluate: both phases on the same test set; figures, report, predictions, submission."""

from frostline.config.settings import Config
from frostline.runtime.background_process import Channel
from frostline.stages import run_stage
from frostline.stages._record import Evaluating, Findings, record_evaluation


def main(config: Config, record: Channel) -> None:
    from frostline.common.files import read_csv
    from frostline.config.paths import CURVES, MODELS, PROCESSED
    from frostline.data.dataset import load_dataset
    from frostline.evaluation.evaluate import assess, write_assessment
    from frostline.models.saving import load_model
    from frostline.training.loop import Epoch, with_kept_last

    def numbers(rows: list[dict[str, str]]) -> list[Epoch]:
        return [{name: float(value) for name, value in row.items()} for row in rows]

    data = load_dataset(PROCESSED)
    record.tell(Evaluating())
    models = {phase: load_model(path) for phase, path in MODELS.items()}
    curves = {phase: numbers(read_csv(path)) for phase, path in CURVES.items()}
    record.hear()  # Opened, or nothing is evaluated
    found = assess(models, data, config)
    chosen = write_assessment(found, models, data, curves, config)
    epochs = {phase: with_kept_last(curve, getattr(config, phase).patience) for phase, curve in curves.items()}
    evaluation = found.evaluation
    record.ask(
        Findings(
            evaluation.figures,
            evaluation.difference,
            found.winner,
            found.note,
            epochs,
            chosen.phase,
            chosen.threshold,
        )
    )
    print(evaluation.verdict.headline)


if __name__ == "__main__":
    run_stage(main, record_evaluation)
