"""Optima and metrics from scikit-learn, for crates/learn/src/{linear,metrics}.

    python reference/linear/generate.py         # writes fits.json, cross_validation.json, metrics.json, labels.json and
                                                # values.json beside this file

Features are float32 values; every fit is float64 with a tolerance far below the tests'.
"""
import json, pathlib, warnings
import numpy as np, sklearn
from scipy.special import expit, log_expit, log_softmax, softmax
from scipy.stats import binomtest, pearsonr
from sklearn import metrics as M
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import StratifiedKFold
from sklearn.multiclass import OneVsRestClassifier

warnings.simplefilter("ignore", FutureWarning)
HERE = pathlib.Path(__file__).parent
SEED = 20240607
rng = np.random.default_rng(SEED)


def digits(values, n):
    """The values in order with n significant digits; nine give a float32 back exactly."""
    return [float(f"{v:.{n}g}") for v in np.ravel(values)]


def blobs(classes, n, dim, spread=1.0):
    """Overlapping classes of unequal size, as float32 values."""
    labels = np.concatenate([np.arange(classes), rng.choice(classes, n - classes, p=softmax(-np.arange(classes) / classes))])
    return (rng.normal(size=(classes, dim))[labels] * spread + rng.normal(size=(n, dim))).astype(np.float32), labels


def with_awkward_features(x):
    """The last three features become a copy, a sum and a constant; the others get very different scales and offsets."""
    x = (x * 10.0 ** rng.integers(-2, 3, x.shape[1]) + 10.0 ** rng.integers(-1, 3, x.shape[1])).astype(np.float32)
    x[:, -3], x[:, -2], x[:, -1] = x[:, 0], x[:, 1] + x[:, 2], 7.5
    return x


def base(C, class_weight=None):
    # newton-cholesky reaches rounding even where the features are badly scaled.
    return LogisticRegression(C=C, class_weight=class_weight, tol=1e-12, max_iter=10000, solver="newton-cholesky")


def log_loss(kind, z, y):
    """Mean negative log probability of the true class from decision values: scikit-learn's log_loss, but without its
    clipping of probabilities below 2.2e-16."""
    z = np.column_stack([-z / 2, z / 2] if kind == "softmax" else [-z, z]) if z.ndim == 1 else z
    logs = log_softmax(z if kind == "softmax" else log_expit(z), axis=1)     # normalised sigmoids for one-vs-rest
    return -logs[np.arange(len(y)), y].mean()


def fit(kind, C, x, y, weight=None):
    """A classifier fitted in float64, its coefficients and intercepts (one row for two classes)."""
    if kind == "softmax":
        m = base(C, weight).fit(x.astype(np.float64), y)
        return m, m.coef_, m.intercept_
    m = OneVsRestClassifier(base(C, weight)).fit(x.astype(np.float64), y)
    return m, np.vstack([e.coef_ for e in m.estimators_]), np.concatenate([e.intercept_ for e in m.estimators_])


problems = {
    "two classes": blobs(2, 60, 5),
    "three classes": blobs(3, 90, 8, 0.5),
    "ten classes": blobs(10, 150, 12, 0.7),
    "fewer samples than features": blobs(3, 20, 30),
}
x, y = blobs(3, 80, 9, 0.6)
problems["collinear and badly scaled"] = with_awkward_features(x), y

fits = []
for name, (x, y) in problems.items():
    for kind in ["softmax", "ovr"]:
        runs = []
        for C, weight in [(0.01, None), (1.0, None), (100.0, None), (1.0, "balanced")]:
            m, coef, intercept = fit(kind, C, x, y, weight)
            runs.append({"C": C, "balanced": weight == "balanced", "weight": digits(coef, 10), "bias": digits(intercept, 10),
                         "probabilities": digits(m.predict_proba(x.astype(np.float64)), 8)})
        fits.append({"name": name, "kind": kind, "features": digits(x, 9), "dim": x.shape[1], "labels": y.tolist(),
                     "classes": int(y.max()) + 1, "runs": runs})

cross_validation = []
for classes, n in [(2, 50), (4, 90)]:
    x, y = blobs(classes, n, 6, 0.5)
    folds = np.zeros(n, int)
    splits = list(StratifiedKFold(5, shuffle=True, random_state=SEED).split(x, y))
    for k, (_, held_out) in enumerate(splits):
        folds[held_out] = k
    for kind in ["softmax", "ovr"]:
        rows = []
        for C in np.logspace(-4, 4, 10):
            models = [fit(kind, C, x[train], y[train])[0] for train, _ in splits]
            accuracy = np.mean([m.score(x[t].astype(np.float64), y[t]) for m, (_, t) in zip(models, splits)])
            loss = np.mean([log_loss(kind, m.decision_function(x[t].astype(np.float64)), y[t]) for m, (_, t) in zip(models, splits)])
            rows.append({"c": C, "accuracy": accuracy, "log_loss": loss})
        cross_validation.append({"kind": kind, "features": digits(x, 9), "dim": 6, "labels": y.tolist(), "classes": classes,
                                 "folds": folds.tolist(), "rows": rows})

evaluations = []
for classes, n in [(2, 40), (7, 60), (12, 30)]:
    y = rng.integers(0, classes, n) if classes < 12 else rng.integers(0, 8, n)          # four classes without samples
    z = (rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[y]).astype(np.float32)
    z[:, classes - 1] -= 15.0 if classes == 7 else 0.0                                 # a class never predicted
    every = list(range(classes))
    p, predicted = softmax(z.astype(np.float64), axis=1), z.argmax(1)
    precision, recall, f1, support = M.precision_recall_fscore_support(y, predicted, labels=every, zero_division=0)
    macro = M.precision_recall_fscore_support(y, predicted, labels=every, average="macro", zero_division=0)[:3]
    top5 = M.top_k_accuracy_score(y, p, k=5, labels=every) if classes > 5 else 1.0
    # scikit-learn has no Wilson interval, SciPy has.
    ci = binomtest(int((predicted == y).sum()), n).proportion_ci(0.95, method="wilson")
    evaluations.append({"logits": digits(z, 9), "labels": y.tolist(), "classes": classes, "loss": M.log_loss(y, p, labels=every),
                        "top1": M.accuracy_score(y, predicted), "top5": top5, "top1_ci95": [ci.low, ci.high],
                        "confusion": M.confusion_matrix(y, predicted, labels=every).tolist(), "precision": precision.tolist(),
                        "recall": recall.tolist(), "f1": f1.tolist(), "support": support.tolist(), "macro": list(macro)})

for name, cases in [("fits", fits), ("cross_validation", cross_validation), ("metrics", evaluations)]:
    lines = ",\n".join(json.dumps({"sklearn": sklearn.__version__, "seed": SEED} | c) for c in cases)
    (HERE / f"{name}.json").write_text(f"[\n{lines}\n]\n")

# Labels: one logistic regression each, on an indicator matrix.
def bce(z, y):
    return -(y * log_expit(z) + (1 - y) * log_expit(-z)).mean()


def mean_average_precision(y, z):
    found = y.any(axis=0)
    return np.mean([M.average_precision_score(y[:, k], z[:, k]) for k in np.flatnonzero(found)])


def with_labels(labels, n, dim):
    x = rng.normal(size=(n, dim)).astype(np.float32)
    z = x @ rng.normal(size=(dim, labels)) + rng.normal(size=(n, labels)) - np.linspace(0, 2, labels)
    return x, (z > 0).astype(int)


label_fits, label_folds = [], []
for labels, n, dim, awkward in [(1, 40, 4, False), (4, 60, 7, False), (3, 60, 6, True)]:
    x, y = with_labels(labels, n, dim)
    x = with_awkward_features(x) if awkward else x
    runs = []
    for C, weight in [(0.01, None), (1.0, None), (100.0, None), (1.0, "balanced")]:
        m, coef, intercept = fit("ovr", C, x, y, weight)
        p = m.predict_proba(x.astype(np.float64))
        p = p[:, 1:] if labels == 1 else p         # for one label scikit-learn adds the other side
        runs.append({"C": C, "balanced": weight == "balanced", "weight": digits(coef, 10), "bias": digits(intercept, 10),
                     "probabilities": digits(p, 8)})
    label_fits.append({"features": digits(x, 9), "dim": dim, "labels": y.ravel().tolist(), "classes": labels, "runs": runs})
    if labels == 4:
        folds = np.arange(n) % 3
        rows = []
        for C in [0.01, 1.0, 100.0]:
            z = [fit("ovr", C, x[folds != k], y[folds != k])[0].decision_function(x[folds == k].astype(np.float64)) for k in range(3)]
            rows.append({"c": C, "score": np.mean([mean_average_precision(y[folds == k], z[k]) for k in range(3)]),
                         "loss": np.mean([bce(z[k], y[folds == k]) for k in range(3)])})
        label_folds.append({"features": digits(x, 9), "dim": dim, "labels": y.ravel().tolist(), "classes": labels,
                            "folds": folds.tolist(), "rows": rows})

label_metrics = []
for labels, n, step in [(3, 40, None), (5, 60, 0.5), (4, 30, 0.25)]:
    z = rng.normal(size=(n, labels))
    y = (z + rng.normal(size=(n, labels)) > np.linspace(-0.5, 1.5, labels)).astype(int)
    z = np.round(z / step) * step if step else z                    # many ties
    z = (z + 1e-3).astype(np.float32)                               # no probability is 0.5 exactly
    if labels == 4:
        y[:, 3] = 0                                                 # a label of no sample
        z[:, 2] = -2                                                # and one never predicted
    precision, recall, f1, support = M.precision_recall_fscore_support(y, z > 0, zero_division=0)
    average = [M.average_precision_score(y[:, k], expit(z[:, k].astype(np.float64))) if y[:, k].any() else None for k in range(labels)]
    label_metrics.append({
        "logits": digits(z, 9), "truth": y.ravel().tolist(), "labels": labels, "loss": bce(z.astype(np.float64), y),
        "average_precision": average, "map": np.mean([a for a in average if a is not None]), "precision": precision.tolist(),
        "recall": recall.tolist(), "f1": f1.tolist(), "support": support.tolist(),
        "micro_f1": M.f1_score(y, z > 0, average="micro"), "macro_f1": M.f1_score(y, z > 0, average="macro", zero_division=0),
        "exact_match": M.accuracy_score(y, z > 0), "hamming_loss": M.hamming_loss(y, z > 0)})

# Numbers: ridge regression.
value_fits, value_folds = [], []
for n, dim, scale, offset in [(50, 5, 1.0, 0.0), (20, 30, 0.001, 0.01), (60, 8, 2000.0, 50000.0)]:
    x = rng.normal(size=(n, dim)).astype(np.float32)
    x = with_awkward_features(x) if dim == 8 else x
    y = ((x - x.mean(0)) @ rng.normal(size=dim) / np.maximum(x.std(), 1) + rng.normal(size=n)) * scale + offset
    y = y.astype(np.float32)
    ridge = lambda C, rows: Ridge(alpha=1 / C, solver="svd").fit(x[rows].astype(np.float64), y[rows].astype(np.float64))
    runs = [{"C": C, "weight": digits(m.coef_, 10), "bias": float(m.intercept_), "answers": digits(m.predict(x.astype(np.float64)), 10)}
            for C in [0.01, 1.0, 100.0] for m in [ridge(C, slice(None))]]
    value_fits.append({"features": digits(x, 9), "dim": dim, "values": digits(y, 9), "runs": runs})
    if dim != 30:
        folds = np.arange(n) % 4
        rows = []
        for C in [0.01, 1.0, 100.0]:
            z = [ridge(C, folds != k).predict(x[folds == k].astype(np.float64)) for k in range(4)]
            rows.append({"c": C, "score": np.mean([M.r2_score(y[folds == k], z[k]) for k in range(4)]),
                         "loss": np.mean([M.mean_squared_error(y[folds == k], z[k]) for k in range(4)])})
        value_folds.append({"features": digits(x, 9), "dim": dim, "values": digits(y, 9), "folds": folds.tolist(), "rows": rows})

value_metrics = []
for n, scale, offset in [(30, 1.0, 0.0), (25, 1e-3, 0.5), (40, 1e4, -3e4)]:
    y = (rng.normal(size=n) * scale + offset).astype(np.float32)
    z = (y + rng.normal(size=n) * 0.7 * scale + 0.1 * scale).astype(np.float32)
    wide_y, wide_z = y.astype(np.float64), z.astype(np.float64)
    value_metrics.append({"answers": digits(z, 9), "values": digits(y, 9), "mse": M.mean_squared_error(wide_y, wide_z),
                          "mae": M.mean_absolute_error(wide_y, wide_z), "r2": M.r2_score(wide_y, wide_z),
                          "pearson": pearsonr(wide_y, wide_z).statistic, "mean_error": (wide_z - wide_y).mean()})

for name, parts in [("labels", (label_fits, label_folds, label_metrics)), ("values", (value_fits, value_folds, value_metrics))]:
    parts = dict(zip(["fits", "cross_validation", "metrics"], parts))
    (HERE / f"{name}.json").write_text(json.dumps({"sklearn": sklearn.__version__, "seed": SEED} | parts) + "\n")
