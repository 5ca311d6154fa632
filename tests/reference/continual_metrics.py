"""The measures of metrics.py once more: in loops, one image and one definition at a time.

A run is a list over tasks t of (logits [n, k], labels [n], head [k], tasks), nested Python lists.
"""

from __future__ import annotations


def predict(logits, head, allowed):
    """The allowed class with the largest logit; of equal ones the earlier in the head."""
    best = None
    for j, label in enumerate(head):
        if label in allowed and (best is None or logits[j] > logits[best]):
            best = j
    return head[best]


def accuracy(state, classes, masked=False):
    """Share of the images of `classes` that are predicted rightly."""
    logits, labels, head, tasks = state
    right = count = 0
    for row, label in zip(logits, labels, strict=True):
        if label not in classes:
            continue
        own_task = next(task for task in tasks if label in task)
        count += 1
        right += predict(row, head, own_task if masked else head) == label
    return right / count


def matrix(run, masked=False):
    """a[t][i] for i <= t, else None."""
    tasks = run[-1][3]
    return [
        [accuracy(state, tasks[i], masked) if i <= t else None for i in range(len(tasks))]
        for t, state in enumerate(run)
    ]


def average_accuracies(run):
    """A_t for every t."""
    return [accuracy(state, state[2]) for state in run]


def forgetting(a):
    """Mean over the tasks but the last of the best earlier accuracy, less the final one."""
    last = len(a) - 1
    total = 0.0
    for i in range(last):
        best = a[i][i]
        for t in range(i, last):
            best = max(best, a[t][i])
        total += best - a[last][i]
    return total / last


def backward_transfer(a):
    """Mean over the tasks but the last of the final accuracy, less the one when just learnt."""
    last = len(a) - 1
    total = 0.0
    for i in range(last):
        total += a[last][i] - a[i][i]
    return total / last


def task_masked(run):
    """Unweighted mean over tasks of the task-masked accuracy after the last."""
    final = matrix(run, masked=True)[-1]
    return sum(final) / len(final)


def confusion(state):
    """counts[true][predicted], both in head order."""
    logits, labels, head, _ = state
    counts = [[0] * len(head) for _ in head]
    for row, label in zip(logits, labels, strict=True):
        counts[head.index(label)][head.index(predict(row, head, head))] += 1
    return counts
