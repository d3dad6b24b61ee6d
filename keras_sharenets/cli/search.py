"""Look for the best network of a space within a budget, with KerasTuner; the same command goes on with a search.

python -m tuning search --space hscnet --data digits --tuner hyperband --trials 12 --output runs/search
"""

import dataclasses
import json
import pathlib

from keras_sharenets import _checks, files
from keras_sharenets.cli.arguments import add_data_arguments, load_data
from keras_sharenets.cli.recipe_arguments import add_recipe_arguments, chosen_recipe
from keras_sharenets.search import budgets, search, trials
from keras_sharenets.search.conclusion import FOLDER, conclude, read_conclusion
from keras_sharenets.search.oracles import ORACLES
from keras_sharenets.search.report import full_training, load
from keras_sharenets.search.spaces.registry import SPACES, find_space

SOURCE = ("data", "data_dir", "input_shape", "skip_unreadable")


def add_arguments(parser):
    parser.add_argument("--space", required=True, help=", ".join(SPACES))
    add_data_arguments(parser)
    parser.add_argument("--tuner", choices=tuple(ORACLES), default="random", help="default: random")
    trials_help = "with hyperband one that goes on with another counts too"
    parser.add_argument("--trials", type=int, required=True, metavar="N", help=trials_help)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the search")
    budgets.add_arguments(parser)
    budgets.add_file_arguments(parser)
    parser.add_argument("--seed", type=int, default=0, help="of draws, splits and trainings (default: 0)")
    parser.add_argument(
        "--validation",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="part of the training split that networks are compared on (default: 0.2)",
    )
    parser.add_argument(
        "--halving-worth",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="accuracy that half the bytes or half the time is worth; 0.01: one per cent (default: 0, accuracy alone)",
    )
    parser.add_argument(
        "--finalists",
        type=int,
        default=1,
        metavar="N",
        help="so many of the best networks are compared on two more held-out parts before one wins (default: 1, the "
        "best trial wins as it is)",
    )
    add_recipe_arguments(parser)


def _recipe(args, dataset):
    return chosen_recipe(args, next(iter(find_space(args.space).networks.values())), dataset.name)


def _search(args):
    find_space(args.space)
    if isinstance(args.seed, bool) or args.seed < 0:
        raise ValueError(f"`seed` (={args.seed!r}) must be a non-negative integer.")
    _checks.positive("trials", args.trials)
    _checks.positive("finalists", args.finalists)
    _checks.above_zero("validation", args.validation)
    _checks.rate("validation", args.validation)
    _checks.rate("halving_worth", args.halving_worth)
    budget, file_budget = budgets.from_arguments(args), budgets.files_from_arguments(args)
    dataset = load_data(args)
    return search.Search(
        folder=pathlib.Path(args.output),
        space=args.space,
        dataset=dataset,
        tuner=args.tuner,
        trials=args.trials,
        recipe=_recipe(args, dataset),
        budget=budget,
        file_budget=file_budget,
        seed=args.seed,
        validation=args.validation,
        halving_worth=args.halving_worth,
        finalists=args.finalists,
    )


def _settings(asked, args):
    """All that makes it this search, as plain data, by the names of the options."""
    kept = ("space", "tuner", "trials", "seed", "validation", "halving_worth", "finalists")
    summary = {name: getattr(asked.dataset, name) for name in ("name", "note", "class_names", "shape")}
    splits = {"train": len(asked.dataset.train), "test": len(asked.dataset.test)}
    settings = {
        **{name: getattr(asked, name) for name in kept},
        **dataclasses.asdict(asked.budget),
        **dataclasses.asdict(asked.file_budget),
        "recipe": dataclasses.asdict(asked.recipe),
        "data": summary | splits,
        "source": {name: getattr(args, name) for name in SOURCE},
    }
    return json.loads(json.dumps(settings))


def _check_unchanged(settings, folder):
    """Writes what makes it this search, or raises a `ValueError` if another one is in the folder."""
    path = folder / search.SETTINGS
    if not path.is_file():
        # Processes of one search may start at once.
        if folder.exists() and not all(entry.name.endswith(".partial") for entry in folder.iterdir()):
            raise ValueError(f"`output` (={folder}) must be an empty folder or that of a search.")
        files.write_json(path, settings)
        return
    before = json.loads(path.read_text())
    given, recorded = (values | values["recipe"] for values in (settings, before))
    for name in given.keys() - {"recipe", "source"}:
        if given[name] != recorded.get(name):
            raise ValueError(
                f"`{name}` (={given[name]}) must be that of the search in {folder} (={recorded.get(name)}). Choose "
                "another `--output` for another search."
            )


def _line(result):
    """What is said of a trial when it begins and when it ends."""
    head = f"trial {result.id}:" if result.worker == "tuner0" else f"{result.worker}, trial {result.id}:"
    if result.state == "running":
        choices = ", ".join(f"{name} {value}" for name, value in result.choices.items())
        going_on = "" if result.continues is None else f", going on with trial {result.continues}"
        return f"{head} {choices}; {result.parameters:,} parameters; {result.epochs} epochs{going_on}"
    if result.state == "failed":
        return f"{head} failed: {result.reason}"
    over = "" if result.within_budget else ", over the limits on files"
    return (
        f"{head} validation accuracy {result.accuracy:.4f}, int8 file {result.int8_bytes:,} bytes, "
        f"{result.latency_ms:.3g} ms{over}; {result.seconds:.0f} s"
    )


def _outcome(found, folder):
    """What is said of the winner."""
    over = "" if found["within_budget"] else ", over the limits on files"
    return (
        f"winner: trial {found['winner']}, validation accuracy {found['validation_accuracy']:.4f}\n"
        f"trained on the whole training split: test accuracy {found['test_accuracy']:.4f}, its int8 file "
        f"{found['int8_test_accuracy']:.4f}, {found['int8_bytes']:,} bytes, {found['latency_ms']:.3g} ms{over}\n"
        f"files in {folder / FOLDER}"
    )


def run(args):
    """Prints two lines a trial, and in the end the winner with its accuracy on the test split."""
    part = search.role()
    asked = _search(args)
    folder = asked.folder
    _check_unchanged(_settings(asked, args), folder)
    if read_conclusion(folder) is None:
        done = len(trials.read_all(folder))
        print(f"{args.space} on {asked.dataset.name}: {done} of {args.trials} trials have ended", flush=True)
        try:
            search.run(asked, lambda result: print(_line(result), flush=True))
            if part == "worker":
                print("no trial is left")
                return
            done = len(trials.read_all(folder))
            if done < args.trials:
                print(f"{done} trials: no other network is within the limits", flush=True)
            conclude(asked, lambda line: print(line, flush=True))
        except KeyboardInterrupt:
            done = len(trials.read_all(folder))
            raise KeyboardInterrupt(f"{done} of {args.trials} trials have ended; the same command goes on") from None
    print(_outcome(read_conclusion(folder), folder))
    print(f"train it with checkpoints, or for longer: {full_training(load(folder))}")
    print(f"look at all trials: python -m tuning report {folder}")
