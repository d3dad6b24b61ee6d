"""Networks as data: their calls, what they store, what they compute."""

from keras_sharenets.analysis.counting import count_parameters
from keras_sharenets.analysis.graph import calls
from keras_sharenets.analysis.profile import Profile, profile, to_csv, to_dict, to_text

__all__ = ["Profile", "calls", "count_parameters", "profile", "to_csv", "to_dict", "to_text"]
