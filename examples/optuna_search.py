"""A search with Optuna: hopeless trials are pruned, and several processes work on one study.

Rate, width, dropout and batch size of a network for the digits, by their accuracy on validation
rows. The processes meet in a journal, a file that each appends to. One that is killed costs its
trial and nothing else: the trial is made again, by a process that takes its place, or by the next
run with the same journal, which goes on with the study. Needs scikit-learn and Optuna:

    python examples/optuna_search.py
    python examples/optuna_search.py --processes 4 --trials 200 --journal digits.journal
"""

import argparse
import multiprocessing
import os
import tempfile
from collections import Counter
from multiprocessing.connection import wait
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import minidl

FINISHED = TrialState.COMPLETE, TrialState.PRUNED
EPOCHS = 20


def data():
    """Rows to train on, to choose by, and to test the choice on, each with its labels."""
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X / 16, y, test_size=0.2, random_state=0, stratify=y)
    X, X_val, y, y_val = train_test_split(X, y, test_size=0.25, random_state=0, stratify=y)
    return (X, y), (X_val, y_val), (X_test, y_test)


def train(trial, train_data, validation_data, callbacks=()):
    """Train a network with what the trial suggests; the trainer, and its last accuracy."""
    hidden = trial.suggest_int("hidden", 8, 128, log=True)
    dropout = trial.suggest_float("dropout", 0.0, 0.5)
    lr = trial.suggest_float("lr", 1e-4, 1.0, log=True)
    batch_size = trial.suggest_categorical("batch_size", [16, 32, 64])
    model = minidl.Sequential(
        minidl.Linear(64, hidden), minidl.ReLU(), minidl.Dropout(dropout),
        minidl.Linear(hidden, 10), seed=0,
    )  # fmt: skip
    trainer = minidl.Trainer(model, optimizer=minidl.Adam(lr=lr))
    history = trainer.fit(
        *train_data, epochs=EPOCHS, batch_size=batch_size, seed=0,
        validation_data=validation_data, callbacks=callbacks,
    )  # fmt: skip
    return trainer, history.history["val_accuracy"][-1]


def open_study(journal, seed=0):
    """The study in the journal, a new one if there is none.

    The lock of a process that was killed while it wrote is broken after five seconds.
    """
    lock = JournalFileOpenLock(str(journal), grace_period=5)
    return optuna.create_study(
        study_name="digits",
        storage=JournalStorage(JournalFileBackend(str(journal), lock)),
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True),
        pruner=optuna.pruners.MedianPruner(n_warmup_steps=3),
        load_if_exists=True,
    )


def goes_on(study, trials):
    """True while there are fewer trials than that, or one waits to be made again."""
    finished = study.get_trials(deepcopy=False, states=FINISHED)
    waiting = study.get_trials(deepcopy=False, states=[TrialState.WAITING])
    return len(finished) < trials or len(waiting) > 0


def work(journal, trials, processes, seed):
    """What each process does: trials, until the study has enough."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    minidl.set_num_threads(max(1, minidl.get_num_threads() // processes))  # its share of the cores
    study = open_study(journal, seed)
    train_data, validation_data, _ = data()

    def objective(trial):
        trial.set_user_attr("process", os.getpid())
        pruning = minidl.OptunaPruning(trial, "val_accuracy")
        return train(trial, train_data, validation_data, [pruning])[1]

    while goes_on(study, trials):
        study.optimize(objective, n_trials=1)


def is_alive(process):
    """True if there is a process with this number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def take_up(study):
    """Fail the trials of processes that are gone, and queue what they tried, once.

    A journal has no heartbeat, as databases of Optuna's can have: nobody else notices.
    """
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        process = trial.user_attrs.get("process")
        if process is not None and not is_alive(process):
            again = "again" not in trial.user_attrs  # else it may be the trial that kills
            print(f"trial {trial.number} was left by process {process}" + ", is made again" * again)
            study.tell(trial.number, state=TrialState.FAIL)
            if again:
                study.enqueue_trial(trial.params, user_attrs={"again": True})


def search(journal, trials, processes):
    """Have so many processes work on the study; those that are killed are replaced."""
    study = open_study(journal)
    take_up(study)
    context = multiprocessing.get_context("spawn")
    seed = len(study.get_trials(deepcopy=False))  # processes with one seed would try the same
    workers = []
    while True:
        while len(workers) < processes and goes_on(study, trials):
            arguments = journal, trials, processes, seed
            workers.append(context.Process(target=work, args=arguments, daemon=True))
            workers[-1].start()
            seed += 1
        if not workers:
            return study
        wait([worker.sentinel for worker in workers])
        for worker in [worker for worker in workers if not worker.is_alive()]:
            workers.remove(worker)
            worker.join()
            if worker.exitcode > 0:
                raise RuntimeError(f"a process ended with exit code {worker.exitcode}")
            if worker.exitcode < 0:
                take_up(study)


def main():
    """Search, and train the best of it once more."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--trials", type=int, default=30, help="trials of the study in all")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--journal", type=Path, help="a file; without one, nothing is kept")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        journal = arguments.journal or Path(folder) / "digits.journal"
        study = search(journal, arguments.trials, arguments.processes)
        trials, best = study.trials, study.best_trial
    states = Counter(trial.state.name for trial in trials)
    steps = sum(len(trial.intermediate_values) for trial in trials)
    by_process = {trial.user_attrs["process"] for trial in trials if trial.state in FINISHED}
    print(f"{states['COMPLETE']} trials were trained to the end, {states['PRUNED']} pruned, by "
          f"{len(by_process)} processes: {steps} epochs of {EPOCHS * len(trials)}")  # fmt: skip

    train_data, validation_data, test_data = data()
    trainer, accuracy = train(optuna.trial.FixedTrial(best.params), train_data, validation_data)
    print(f"best: trial {best.number}, {best.params}")
    print(f"accuracy {best.value:.4f} on the rows it was chosen by, "
          f"{trainer.evaluate(*test_data)['accuracy']:.4f} on others")  # fmt: skip

    assert accuracy == best.value, "the same training, whoever made it"
    assert best.value > 0.95


if __name__ == "__main__":
    main()
