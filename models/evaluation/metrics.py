"""What is reported of a trained model, in which unit, and beside which reference."""

from dataclasses import dataclass

__all__ = ["METRICS", "Metric", "table"]


@dataclass(frozen=True)
class Metric:
    """One figure.

    Attributes:
        name: for headings.
        unit: "" for a pure number.
        better: "low", "high", or "none" where the figure only describes.
        description: what it is, in one sentence.
        format: of the number.
        reference: key of the metric that real data, or a perfect match, give; "" for none.
    """

    name: str
    unit: str
    better: str
    description: str
    format: str = ".3g"
    reference: str = ""


def _reference(name, unit, description, format=".3g"):
    return Metric(name, unit, "none", description, format)


CODE_UNITS = "test codes centred and divided by one scale, what is decoded by the same two"
METRICS = {
    "mse_per_pixel": Metric(
        "test MSE per pixel", "intensity^2", "low", "test images, reconstructed", ".4f"
    ),
    "fd": Metric(
        "FD", "features^2", "low", "Frechet distance of features, samples to test images", ".2f",
        "fd_train",
    ),
    "fd_codes": Metric(
        "FD of decoded training codes", "features^2", "none",
        "the same for codes of training images in place of samples: what the decoder allows", ".2f",
        "fd_train",
    ),
    "fd_train": _reference(
        "FD of training images", "features^2", "training images to test images", ".2f"
    ),
    "one_nn": Metric(
        "1-NN two-sample accuracy", "", "low",
        "leave-one-out, samples against test images in pixels; 0.5 where they cannot be told apart",
        ".3f", "one_nn_train",
    ),
    "one_nn_train": _reference(
        "1-NN accuracy, training images", "", "training images against test images", ".3f"
    ),
    "confidence": Metric(
        "top probability", "", "high", "mean over samples, of the classifier", ".3f",
        "confidence_data",
    ),
    "confidence_data": _reference("top probability, data", "", "the same on test images", ".3f"),
    "classes": Metric(
        "classes", "", "high", "exp of the entropy of the classifier's mean prediction on samples",
        ".2f", "classes_data",
    ),
    "classes_data": _reference("classes, data", "", "the same on test images", ".2f"),
    "sharpness": Metric(
        "sharpness", "intensity^2", "none",
        "variance of the 3 x 3 Laplacian of the grey image, mean over samples", ".3f",
        "sharpness_data",
    ),
    "sharpness_reconstructions": Metric(
        "sharpness, reconstructions", "intensity^2", "none", "the same of reconstructions",
        ".3f", "sharpness_data",
    ),
    "sharpness_data": _reference(
        "sharpness, data", "intensity^2", "the same of test images", ".3f"
    ),
    "sample_mmd": Metric(
        "MMD^2 of points", "", "low", "samples to test points, both in units of the test points",
        ".4f", "sample_mmd_train",
    ),
    "sample_mmd_train": _reference("MMD^2, training points", "", "to test points", ".4f"),
    "sample_sw2": Metric(
        "sliced W2^2 of points", "scale^2", "low",
        "samples to test points, both in units of the test points", ".4f", "sample_sw2_train",
    ),
    "sample_sw2_train": _reference(
        "sliced W2^2, training points", "scale^2", "to test points", ".4f"
    ),
    "sample_gw2": Metric(
        "Gaussian W2^2 of points", "scale^2", "low",
        "samples to test points, both in units of the test points", ".4f", "sample_gw2_train",
    ),
    "sample_gw2_train": _reference(
        "Gaussian W2^2, training points", "scale^2", "to test points", ".4f"
    ),
    "modes": Metric("modes", "", "high", "modes that own more than 2 % of all samples", ".0f"),
    "within": Metric(
        "within 3 sd of a mode", "", "high", "share of samples; 0.989 of the data", ".3f"
    ),
    "tv": Metric(
        "total variation of modes", "", "low",
        "of the shares of the modes, each sample counted for the nearest, from equal shares", ".3f",
    ),
    "code_mmd": Metric(
        "codes, MMD^2", "", "low", f"test codes to what is decoded; {CODE_UNITS}", ".4f",
        "code_mmd_train",
    ),
    "code_mmd_train": _reference("codes, MMD^2, train", "", "test codes to training codes", ".4f"),
    "code_sw2": Metric(
        "codes, sliced W2^2", "scale^2", "low", f"test codes to what is decoded; {CODE_UNITS}",
        ".4f", "code_sw2_train",
    ),
    "code_sw2_train": _reference(
        "codes, sliced W2^2, train", "scale^2", "test codes to training codes", ".4f"
    ),
    "code_gw2": Metric(
        "codes, Gaussian W2^2", "scale^2", "low", f"test codes to what is decoded; {CODE_UNITS}",
        ".3f", "code_gw2_train",
    ),
    "code_gw2_train": _reference(
        "codes, Gaussian W2^2, train", "scale^2", "test codes to training codes", ".3f"
    ),
    "code_nearest": Metric(
        "nearest training code", "scale", "none",
        f"median distance of what is decoded to it; {CODE_UNITS}", ".3f", "code_nearest_test",
    ),
    "code_nearest_test": _reference(
        "nearest training code, test", "scale", "median distance of a test code to it", ".3f"
    ),
    "prior_mmd": Metric(
        "codes to prior, MMD^2", "", "low", "in the prior's units; 0 is the mean of a match", ".4f"
    ),
    "prior_sw2": Metric(
        "codes to prior, sliced W2^2", "latent^2", "low", "in the prior's units", ".4f",
        "prior_sw2_floor",
    ),
    "prior_sw2_floor": _reference(
        "prior to prior, sliced W2^2", "latent^2", "two samples of as many points", ".4f"
    ),
    "prior_gw2": Metric(
        "codes to prior, Gaussian W2^2", "latent^2", "low",
        "of the moments of the codes to those of the Gaussian prior", ".3f", "prior_gw2_floor",
    ),
    "prior_gw2_floor": _reference(
        "prior to prior, Gaussian W2^2", "latent^2", "of a sample of as many points", ".3f"
    ),
    "knn_accuracy": Metric(
        "5-NN accuracy of codes", "", "high",
        "classes of test codes by vote of their 5 nearest training codes", ".3f",
    ),
}  # fmt: skip


def table(metrics, features=None):
    """Plain text of the figures by key: name and unit, value, reference.

    Args:
        metrics: as :func:`models.evaluation.evaluate` returns them.
        features: the :class:`Features` that they were taken in, to be named below the table.
    """
    references = {metric.reference for metric in METRICS.values()}
    lines = [f"{'':<42}{'value':>10}{'reference':>11}"]
    for key, metric in METRICS.items():
        if key not in metrics or key in references:
            continue
        name = f"{metric.name} ({metric.unit})" if metric.unit else metric.name
        reference = metrics.get(metric.reference)
        shown = "" if reference is None else format(reference, metric.format)
        lines.append(f"{name:<42}{format(metrics[key], metric.format):>10}{shown:>11}")
    if features and "fd" in metrics:
        lines.append(f"FD: Frechet distance, {features.name}; not FID unless those are Inception's")
    return "\n".join(lines)
