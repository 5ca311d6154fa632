"""What each picture is called on a page, and how to read it."""

CAPTIONS = {
    "accuracy_over_tasks": (
        "Accuracy as tasks are learnt",
        "Each line is one task's test accuracy from when it was learnt; a falling line is "
        "forgetting. The thick one is over all classes seen so far, of which there are more each "
        "time.",
    ),
    "accuracy_matrix": (
        "Accuracy by task",
        "Read a column downwards: one task, after each later one. Below the diagonal, dark is "
        "forgotten.",
    ),
    "memory": (
        "Memory by class",
        "Read a row from left to right: how much of one class is left after each task. Rows are in "
        "order of arrival.",
    ),
    "drift": (
        "The drift strip",
        "One class to a row: real images first, then what the generator draws of it after each "
        "task. Below, the Frechet distance to the real test images; below the real ones, what real "
        "training images reach. A row that turns blurred or strange to the right, with a distance "
        "that grows, is a memory that decays.",
    ),
    "drift_alone": (
        "The drift strip, replay alone",
        "One class to a row: what the generator draws of it after each task. Below, the Frechet "
        "distance to the real test images. A row that turns blurred or strange to the right, with "
        "a distance that grows, is a memory that decays.",
    ),
    "nearest_pairs": (
        "The nearest pairs",
        "Of each class the drawn images that are nearest to a training image, each followed by "
        "that image. These are real images.",
    ),
    "replay_quality": (
        "Replay in numbers",
        "Frechet distance: lower is better. Agreement: how often the oracle sees the class that "
        "was asked for. Precision: how much of the replay looks like real images. Coverage: how "
        "much of the real images the replay reaches. Near the dashed line is good; away from it, "
        "from left to right, is drift.",
    ),
    "confusion": (
        "Confusion",
        "Each row is a class, each column what it was taken for after the last task. A bright "
        "column off the diagonal is a class that swallows others.",
    ),
    "replay": (
        "Replay beside real images",
        "Left, what the last task was given of the old classes; right, real test images, which the "
        "learner has not seen.",
    ),
    "replay_alone": (
        "Replay",
        "What the last task was given of the old classes.",
    ),
    "prototypes": (
        "Prototypes, start to end",
        "Above, what each class's prototype started from; below, what was learnt and then frozen.",
    ),
    "embedding": (
        "Replay among real images",
        "Each point is an image. Crosses should lie among the circles of their colour and fill the "
        "same area: crosses elsewhere are wrong, circles without crosses are forgotten. Distances "
        "between groups mean little in a t-SNE.",
    ),
    "bounds": (
        "Between the bounds",
        "How much of the way from keeping nothing (finetune) to keeping all images (joint) the "
        "method goes. Bounds are finished runs with the same stream and classifier.",
    ),
    "projection": (
        "Projection",
        "How many directions each projected layer has left for new classes, as a share. At zero it "
        "can learn nothing more. Drift is the relative change of old classes' keys and values over "
        "a task; it is no measure of forgetting.",
    ),
    "losses": (
        "Losses",
        "One line for each task, the first ones dark. A loss that is still falling at its end asks "
        "for more steps.",
    ),
    "seconds": (
        "Where the seconds went",
        "One bar for each task. The time of synthesis grows with the number of old classes.",
    ),
    "average_accuracy": (
        "Average accuracy",
        "The mean over seeds; the band reaches from the worst seed to the best.",
    ),
    "forgetting_against_cost": (
        "Forgetting against cost",
        "Small marks are runs, large ones their means; down and to the left is better.",
    ),
    "accuracy_by_class": (
        "Final accuracy by class",
        "Columns are classes in order of arrival: dark on the left is what was forgotten.",
    ),
}
