"""The vote of a vehicle's photos on a value that they share."""

from __future__ import annotations

import numpy as np


def vote(log_probabilities: np.ndarray, vehicle: np.ndarray, n_vehicles: int) -> np.ndarray:
    """The vehicles' scores, float64[n_vehicles, values]; higher is likelier.

    ``log_probabilities`` float[n, values] are those of single photos, ``vehicle`` int64[n] positions of their vehicles.
    The log probabilities of m photos are summed and divided by the root of m: m photos that were independent would
    call for the sum, m copies of one photo for the mean, and photos of a vehicle lie between. The likeliest value is
    that of the sum in any case. A vehicle without photos scores zero for every value.
    """
    sums = np.zeros((n_vehicles, log_probabilities.shape[1]))
    np.add.at(sums, vehicle, log_probabilities)
    return shared(sums, np.bincount(vehicle, minlength=n_vehicles))


def shared(sums: np.ndarray, photos: np.ndarray) -> np.ndarray:
    """Scores of vehicles: ``sums`` float[v, values] of their photos' log probabilities, ``photos`` int[v] how many."""
    found: np.ndarray = sums / np.sqrt(np.maximum(photos, 1))[:, None]
    return found
