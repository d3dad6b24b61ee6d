"""Plot the weights, activations, filters, and blending layers of networks, with a report page.

sharenets analyze runs/mine hscnet_m32_g4_r2_b1_a2 --output analysis
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_sharenets import _checks
from keras_sharenets.cli import blending
from keras_sharenets.cli.arguments import (
    add_data_arguments,
    add_model_option,
    data_source,
    load_data,
)
from keras_sharenets.cli.command import Answer, say
from keras_sharenets.files import check_paths
from keras_sharenets.models import find_variant
from keras_sharenets.training.run.command import parse_option

if TYPE_CHECKING:
    import keras

    from keras_sharenets._types import Shape
    from keras_sharenets.analysis.activations import Maps
    from keras_sharenets.analysis.profile import Profile
    from keras_sharenets.training.data.batches import Batches
    from keras_sharenets.training.data.dataset import Dataset

EXCITING = 3  # Number of maps plotted for original and for arranged filters, as in figure 9 of HSC-Net.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "networks",
        nargs="+",
        metavar="RUN_DIR|FILE.keras|NAME",
        help="networks to analyze side by side: run folder, file, or named network (pretrained where available)",
    )
    add_model_option(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for all files; must be empty or new")
    asked = parser.add_argument_group("analyses", "Default: --weights, --activations, and --filters.")
    asked.add_argument(
        "--weights", action="store_true", help="distributions of the weights and of the l1 norms of the filters"
    )
    asked.add_argument("--activations", action="store_true", help="feature maps that are among the strongest, by class")
    asked.add_argument(
        "--filters", action="store_true", help="kernels, and images that maximize the strongest feature maps"
    )
    asked.add_argument("--blending", action="store_true", help="blending layers of a ShardNet, pruned step by step")
    add_data_arguments(parser, required=False, note="Default: the data of the first run.")
    parser.add_argument("--limit-images", type=int, metavar="N", help="number of test images to use (default: all)")
    parser.add_argument(
        "--layers",
        nargs="+",
        metavar="NAME",
        help="layers whose feature maps to analyze (default: the end of each stage)",
    )
    parser.add_argument(
        "--part",
        type=float,
        default=0.25,
        metavar="F",
        help="fraction of the feature maps that count as the strongest for an image (default: 0.25)",
    )
    blending.add_blending_arguments(parser.add_argument_group("blending layers"), layers="--blending-layers")


def check(arguments: argparse.Namespace) -> None:
    if arguments.limit_images is not None:
        _checks.positive("--limit-images", arguments.limit_images)
    if not 0 < arguments.part <= 1:
        raise ValueError(f"`--part` (={arguments.part}) must be above 0 and at most 1.")
    named = 0
    for path in map(pathlib.Path, arguments.networks):
        if path.suffix == ".keras" or len(path.parts) > 1:
            check_paths(str(path))
        elif not path.exists():
            find_variant(str(path))
            named += 1
    if arguments.model_option and not named:
        raise ValueError(f"`--model-option` (={' '.join(arguments.model_option)}) requires a named network.")
    blending.check_options(arguments)


@dataclasses.dataclass(frozen=True)
class _Network:
    """A network to analyze: its label in figures, the model, its data source, and its test crops."""

    label: str
    model: keras.Model
    source: Mapping[str, Any] | None = None
    crops: str = "none"
    note: str = ""


def run(arguments: argparse.Namespace) -> Answer:
    """Writes PNG files, `analysis.json`, and a page; with `--blending`, also a table of its own."""
    from keras_sharenets import analysis, files
    from keras_sharenets.images import evenly_spaced
    from keras_sharenets.rendering.page import COUNTS, page
    from keras_sharenets.training.run.fit import check_output

    output = check_output(arguments.output)
    every = not (arguments.weights or arguments.activations or arguments.filters or arguments.blending)
    networks = _open(arguments)
    dataset = None
    if every or arguments.activations or arguments.filters or arguments.blending:
        recorded = next((network.source for network in networks if network.source), None)
        dataset = load_data(data_source(arguments, recorded))
        chosen = evenly_spaced(len(dataset.test), arguments.limit_images or len(dataset.test))
        dataset = dataclasses.replace(dataset, test=dataset.test.part(chosen))
    # First of all: fails if the size of the images is unknown.
    counts = {each.label: analysis.to_text(_profile(arguments, each, dataset)) for each in networks}
    images: dict[str, bytes] = {}
    sections: dict[str, Any] = {}
    data: dict[str, Any] = {"networks": [{"name": each.label, "note": each.note} for each in networks]}
    if every or arguments.weights:
        data["weights"] = _weights(networks, images, sections)
    if every or arguments.activations or arguments.filters:
        assert dataset is not None
        places = {each.label: _activations(arguments, each, dataset) for each in networks}
        if every or arguments.activations:
            data["activations"] = _show_activations(places, dataset, images, sections)
        if every or arguments.filters:
            data["filters"] = _filters(networks, places, dataset, images, sections)
    for each in networks if arguments.blending else ():
        assert dataset is not None
        prefix = f"{_slug(each.label)}_" if len(networks) > 1 else ""
        patterns = analysis.blending_patterns(each.model, arguments.strongest, layers=arguments.blending_layers)
        tested, _ = _test_batches(each, dataset)
        found = blending.report(arguments, each.model, patterns, dataset, tested, output / f"{prefix}curve.csv")
        data.setdefault("blending", {})[each.label] = found.data
        sections |= {f"{each.label}: {heading.lower()}": part for heading, part in found.sections.items()}
        images |= {f"{prefix}{name}": image for name, image in found.images.items()}
    for each in networks:
        sections[f"{each.label}: {COUNTS.lower()}"] = counts[each.label]
    title = f"Analysis of {' and '.join(each.label for each in networks)}"
    notes = [each.note for each in networks if each.note] + ([] if dataset is None else [f"{dataset.note}."])
    notes += [blending.note(arguments)] if arguments.blending else []
    for name, image in images.items():
        files.write_bytes(output / name, image)
    files.write_json(output / "analysis.json", data)
    files.write_text(output / "index.html", page(title, " ".join(notes), sections))
    return Answer(f"files in {output}: {', '.join([*images, 'analysis.json', 'index.html'])}", data)


def _profile(arguments: argparse.Namespace, network: _Network, dataset: Dataset | None) -> Profile:
    from keras_sharenets.analysis import profile

    if dataset is not None:
        return profile(network.model, _test_batches(network, dataset)[1])
    # Without data, `--input-shape` may still complete a network for images of any size.
    shape, any_size = arguments.input_shape, None in network.model.input_shape[1:]
    return profile(network.model, tuple(shape) if shape is not None and any_size else None)


def _slug(label: str) -> str:
    return re.sub(r"[^\w.-]+", "_", label)


def _open(arguments: argparse.Namespace) -> list[_Network]:
    from keras_sharenets import files
    from keras_sharenets.training.run.finished import (
        crops_of_file,
        network_file,
        open_run,
        source_of_file,
        tested_crops,
    )

    options = dict(map(parse_option, arguments.model_option))
    found: list[_Network] = []
    for word in arguments.networks:
        path = pathlib.Path(word)
        if path.is_dir():
            run = open_run(path)
            model = files.load_model(network_file(path))
            each = _Network(path.resolve().name, model, run.source, tested_crops(run.recipe))
        elif path.suffix == ".keras":
            name = path.stem if path.stem not in ("last", "best") else f"{path.resolve().parent.name}/{path.stem}"
            each = _Network(name, files.load_model(path), source_of_file(path), crops_of_file(path))
        else:
            each = _named(word, options)
        if each.label in {other.label for other in found}:
            each = dataclasses.replace(each, label=f"{each.label} ({len(found) + 1})")
        found.append(each)
    return found


def _named(name: str, options: dict[str, Any]) -> _Network:
    """A named network, with the pretrained weights of the package if there are any."""
    from keras_sharenets.models import create_model, list_trained
    from keras_sharenets.models.variant import network_label

    label = network_label(name, options)
    trained = [each for each in list_trained(name) if dict(each.options) == options]
    if trained:
        weights = trained[0].weights
        return _Network(label, create_model(name, weights=weights, **options), {"data": weights})
    return _Network(label, create_model(name, **options), None, note=f"{label} is untrained: its weights are random.")


def _weights(networks: Sequence[_Network], images: dict[str, bytes], sections: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    from keras_sharenets.analysis.figures import draw_distributions
    from keras_sharenets.analysis.filters import filter_norms, stored_weights

    weights = {each.label: stored_weights(each.model) for each in networks}
    norms = {each.label: filter_norms(each.model) for each in networks}
    for label, values in weights.items():
        if not values.size:
            raise ValueError(f"{label} has no convolutions.")
    headings = "Weights of all convolutions", "L1 norms of the filters of all convolutions"
    images["weights.png"] = draw_distributions(weights, "weight, each stored one once", headings[0])
    images["norms.png"] = draw_distributions(norms, "l1 norm of a filter as it is applied", headings[1])
    data = {}
    rows: list[Sequence[str]] = [("network", "weights", "deviation", "below 0.01", "filters", "median l1 norm")]
    for label in weights:
        magnitudes = np.abs(weights[label])
        about = {
            "weights": int(magnitudes.size),
            "weight_deviation": float(weights[label].std()),
            "share_below_0.01": float((magnitudes < 0.01).mean()),
            "filters": int(norms[label].size),
            "l1_norm_quartiles": np.percentile(norms[label], (25, 50, 75)).tolist(),
        }
        data[label] = about
        cells = (f"{about['weight_deviation']:.4f}", f"{about['share_below_0.01']:.1%}", f"{about['filters']:,}")
        rows.append((label, f"{about['weights']:,}", *cells, f"{about['l1_norm_quartiles'][1]:.3f}"))
    sections["Weights"] = rows
    sections |= {headings[0]: [images["weights.png"]], headings[1]: [images["norms.png"]]}
    return data


def _test_batches(network: _Network, dataset: Dataset) -> tuple[Batches, Shape]:
    """The test split as input for the network, one batch in memory at a time, and the image shape."""
    from keras_sharenets.training.data.batches import held_out_batches
    from keras_sharenets.training.reports.evaluate import BATCH_SIZE

    *size, _ = network.model.input_shape[1:]
    if network.crops == "none" or None in size:
        return held_out_batches(dataset, BATCH_SIZE), dataset.shape
    return held_out_batches(dataset, BATCH_SIZE, tuple(size)), (*size, dataset.shape[-1])


def _activations(arguments: argparse.Namespace, network: _Network, dataset: Dataset) -> tuple[Maps, ...]:
    """The feature maps of a network for the test split."""
    from keras_sharenets.analysis.activations import activation_maps

    say(f"computing feature maps of {network.label} ...")
    batches, shape = _test_batches(network, dataset)
    where = {"layers": arguments.layers, "part": arguments.part, "input_shape": shape}
    return activation_maps(network.model, batches, dataset.test.labels, **where)


def _show_activations(
    places: dict[str, tuple[Maps, ...]], dataset: Dataset, images: dict[str, bytes], sections: dict[str, Any]
) -> dict[str, Any]:
    from keras_sharenets.analysis.figures import HIGH, draw_high, draw_strongest
    from keras_sharenets.rendering.page import Photo

    rows: list[Sequence[str]] = [
        ("network", "maps of", "of them", *(f"strongest, > {share:.0%}" for share in HIGH), "active, > 90%")
    ]
    data: dict[str, Any] = {}
    for label, found in places.items():
        for maps in found:
            high = [maps.high(share) for share in HIGH]
            count, active = maps.arrangement.size, maps.always_active(0.9)
            rows.append((label, maps.name, str(count), *map(str, high), str(active)))
        data[label] = [_entry(maps) for maps in found]
    heading = "Feature maps among the strongest for nearly all images"
    images["high.png"] = draw_high(places, heading)
    sections |= {heading: [images["high.png"]], "Number of these feature maps": rows}
    for label, found in places.items():
        heading = f"{label}: strongest feature maps by class"
        name = "strongest.png" if len(places) == 1 else f"{_slug(label)}_strongest.png"
        images[name] = draw_strongest(found, dataset.class_names, heading)
        sections[heading] = Photo(images[name])
    return data


def _entry(maps: Maps) -> dict[str, Any]:
    return {
        "layer": maps.name,
        "filters_of": maps.filters,
        "size": list(maps.size),
        "strongest_of_an_image": maps.each,
        "images_per_class": maps.images.tolist(),
        "strongest_by_class": maps.strongest.tolist(),
        "active_images": maps.active.tolist(),
        "arrangement": maps.arrangement.tolist(),
    }


def _filters(
    networks: Sequence[_Network],
    places: dict[str, tuple[Maps, ...]],
    dataset: Dataset,
    images: dict[str, bytes],
    sections: dict[str, Any],
) -> dict[str, Any]:
    """Kernels of the first stage, and images that maximize its strongest feature maps."""
    from keras_sharenets.analysis.activations import exciting_images
    from keras_sharenets.analysis.figures import draw_exciting, draw_kernels
    from keras_sharenets.analysis.filters import filters
    from keras_sharenets.rendering.page import Photo

    data: dict[str, Any] = {}
    for network in networks:
        first = places[network.label][0]
        known = filters(network.model)
        spatial = [each for each in known if each.kernel.shape[0] > 1]
        arranged = [each for each in spatial if each.arrangement.any()]
        behind = [each for each in known if each.name == first.filters]
        chosen = list({each.name: each for each in (*spatial[:1], *arranged[:1], *behind)}.values())
        prefix = "" if len(networks) == 1 else f"{_slug(network.label)}_"
        heading = f"{network.label}: kernels of the first stage"
        images[f"{prefix}kernels.png"] = draw_kernels(chosen, heading)
        sections[heading] = [images[f"{prefix}kernels.png"]]
        best = {"original": first.best(EXCITING, arranged=False), "arranged": first.best(EXCITING, arranged=True)}
        if not best["arranged"]:
            best = {"original": best["original"], "others": first.best(2 * EXCITING, arranged=False)[EXCITING:]}
        say(f"computing images that maximize feature maps of {network.label} ...")
        channels = [channel for each in best.values() for channel in each]
        shape = _test_batches(network, dataset)[1]
        excited = exciting_images(network.model, first.name, channels, input_shape=shape)
        rows, start = {}, 0
        for name, each in best.items():
            if each:
                rows[name] = each, excited[start : start + len(each)]
            start += len(each)
        heading = f"{network.label}: images that maximize the strongest feature maps of stage 1"
        images[f"{prefix}exciting.png"] = draw_exciting(rows, heading)
        sections[heading] = Photo(images[f"{prefix}exciting.png"])
        data[network.label] = {"layer": first.name, "kernels": [each.name for each in chosen], "strongest": best}
    return data
