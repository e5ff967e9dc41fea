"""Optima and metrics from scikit-learn, for crates/learn/src/{linear,metrics}.

    python reference/linear/generate.py         # writes fits.json, cross_validation.json, metrics.json beside this file

Features are float32 values; every fit is float64 with a tolerance far below the tests'.
"""
import json, pathlib, warnings
import numpy as np, sklearn
from scipy.special import log_expit, log_softmax, softmax
from scipy.stats import binomtest
from sklearn import metrics as M
from sklearn.linear_model import LogisticRegression
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
