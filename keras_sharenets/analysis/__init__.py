"""Analysis of networks: calls, parameters, multiply-adds, filters and activations."""

from keras_sharenets.analysis.activations import Maps, activation_maps, exciting_images
from keras_sharenets.analysis.blending import Pattern, blending_layers, blending_patterns
from keras_sharenets.analysis.blending_pruning import (
    FRACTIONS,
    CurveRow,
    Pruning,
    prune_blending,
    pruning_curve,
)
from keras_sharenets.analysis.counting import count_parameters
from keras_sharenets.analysis.filters import Filters, filter_norms, filters, stored_weights
from keras_sharenets.analysis.graph import calls
from keras_sharenets.analysis.profile import Profile, profile, to_csv, to_dict, to_text

__all__ = [
    "FRACTIONS",
    "CurveRow",
    "Filters",
    "Maps",
    "Pattern",
    "Profile",
    "Pruning",
    "activation_maps",
    "blending_layers",
    "blending_patterns",
    "calls",
    "count_parameters",
    "exciting_images",
    "filter_norms",
    "filters",
    "profile",
    "prune_blending",
    "pruning_curve",
    "stored_weights",
    "to_csv",
    "to_dict",
    "to_text",
]
