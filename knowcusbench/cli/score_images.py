"""The command `knowcusbench score --images DIR --prompts FILE`."""

from collections.abc import Sequence

from knowcusbench.cli.options import Parser
from knowcusbench.errors import ConfigError, IncompleteError
from knowcusbench.stages.score_images import score_images
from knowcusbench.storage.files import local_path, write_atomic
from knowcusbench.storage.tables import write_json, writing


def main(arguments: Sequence[str]) -> None:
    """Run `knowcusbench score --images DIR --prompts FILE [--references DIR] [--output FILE] [overrides]`."""
    parser = Parser("score")
    parser.add_argument("--images", type=local_path, required=True)
    parser.add_argument("--prompts", type=local_path, required=True)
    parser.add_argument("--references", type=local_path)
    parser.add_argument("--output", type=local_path)
    options, overrides = parser.parsed(arguments)
    if options.output and options.output.suffix != ".csv":
        raise ConfigError(f"--output: {options.output}: expected a file name that ends in .csv")
    scores = score_images(options.images, options.prompts, options.references, overrides)
    if options.output:
        record = {"protocol": scores.protocol, "scores": scores.summary.to_dict("records")}
        with writing():
            write_atomic(options.output, scores.table.to_csv(index=False).encode())
            write_json(options.output.with_suffix(".json"), record)
    protocol = scores.protocol
    print(f"Protocol {protocol['name']} ({protocol['source']}), {protocol['reduction']} mean")
    print(scores.summary.to_string(index=False, na_rep="–", float_format=lambda value: f"{value:.4f}"))
    if options.output:
        print(f"\nwritten to {options.output} and {options.output.with_suffix('.json')}")
    if count := len(scores.unscored):
        raise IncompleteError(
            f"{count} of {scores.table['image'].nunique()} images of {options.images} have no score, as said above; "
            "put whole files there and score again"
        )
