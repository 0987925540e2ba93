"""Searches with Optuna: pruning in real trainings, and a study that survives a kill."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import python, start_python

import minidl

optuna = pytest.importorskip("optuna")

TrialState = optuna.trial.TrialState
RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 3))
Y = (X[:, 0] > X[:, 1]).astype(int)
FINISHED = TrialState.COMPLETE, TrialState.PRUNED
EXAMPLE = Path(__file__).parents[1] / "examples" / "optuna_search.py"


@pytest.fixture(autouse=True)
def quiet():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


class Scripted(optuna.pruners.BasePruner):
    """Prunes at a step; notes what it was shown."""

    def __init__(self, step=10**6):
        self.step, self.shown = step, []

    def prune(self, study, trial):
        self.shown.append((trial.last_step, trial.intermediate_values[trial.last_step]))
        return trial.last_step >= self.step


def new_trainer(**options):
    model = minidl.Sequential(minidl.Linear(3, 8), minidl.ReLU(), minidl.Linear(8, 2), seed=0)
    return minidl.Trainer(model, **options)


def fit(trainer, *callbacks, epochs=5, **options):
    return trainer.fit(
        X[:150], Y[:150], epochs=epochs, batch_size=25, seed=0,
        validation_data=(X[150:], Y[150:]), callbacks=callbacks, **options,
    )  # fmt: skip


def new_study(pruner=None, **options):
    return optuna.create_study(pruner=pruner or Scripted(), **options)


# The callback.


def test_each_epoch_is_reported():
    pruner, trainer = Scripted(), new_trainer()
    trial = new_study(pruner).ask()
    history = fit(trainer, minidl.OptunaPruning(trial))
    assert pruner.shown == list(enumerate(history.history["val_loss"]))
    history = fit(trainer, minidl.OptunaPruning(trial), epochs=2)  # epochs count on
    assert pruner.shown[5:] == list(enumerate(history.history["val_loss"], 5))


def test_the_interval_and_the_monitor():
    pruner = Scripted()
    trial = new_study(pruner, direction="maximize").ask()
    pruning = minidl.OptunaPruning(trial, "accuracy", interval=3)
    history = fit(new_trainer(), pruning, epochs=7)
    accuracy = history.history["accuracy"]
    assert pruner.shown == [(2, accuracy[2]), (5, accuracy[5])]


def test_a_pruned_trial():
    """It ends at its epoch; the study has its last result, and the trainer goes on."""
    study, trainers = new_study(Scripted(2)), []

    def objective(trial):
        trainers.append(new_trainer())
        fit(trainers[0], minidl.OptunaPruning(trial))
        raise AssertionError("not pruned")

    study.optimize(objective, n_trials=1)
    (trial,), (trainer,) = study.trials, trainers
    assert trial.state == TrialState.PRUNED
    assert trainer.epoch == 3 == len(trial.intermediate_values)
    assert trial.value == trainer.history.history["val_loss"][-1]
    whole = new_trainer()
    fit(whole)
    fit(trainer, epochs=2)
    assert trainer.history.history == whole.history.history


def test_the_message():
    trial = new_study(Scripted(1)).ask()
    with pytest.raises(optuna.TrialPruned, match=r"^pruned after epoch 1, val_loss 0\.\d+$"):
        fit(new_trainer(), minidl.OptunaPruning(trial))


def test_a_training_that_diverges_is_pruned():
    study = new_study()

    def objective(trial):
        fit(new_trainer(optimizer=minidl.SGD(lr=1e30)), minidl.OptunaPruning(trial))

    study.optimize(objective, n_trials=1)
    assert study.trials[0].state == TrialState.PRUNED
    trial = study.ask()
    with pytest.raises(optuna.TrialPruned, match="became NaN or infinite in epoch 0") as caught:
        objective(trial)
    assert isinstance(caught.value.__cause__, minidl.NonFiniteError)


def test_the_pruner_sees_the_hopeless():
    """Trials with good and bad rates in turns: the bad ones are pruned, in either direction."""
    for monitor, direction in (("val_loss", "minimize"), ("val_accuracy", "maximize")):
        pruner = optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=2)
        study = new_study(pruner, direction=direction)

        def objective(trial, monitor=monitor):
            lr = 1e-6 if trial.number % 2 else 0.02
            pruning = minidl.OptunaPruning(trial, monitor)
            history = fit(new_trainer(optimizer=minidl.Adam(lr=lr)), pruning, epochs=8)
            return history.history[monitor][-1]

        study.optimize(objective, n_trials=6)
        states = [trial.state.name for trial in study.trials]
        assert states == ["COMPLETE", "COMPLETE", "COMPLETE", "PRUNED", "COMPLETE", "PRUNED"]


@pytest.mark.parametrize(
    ("monitor", "mode", "direction"),
    [
        ("val_loss", "auto", "minimize"),
        ("val_accuracy", "auto", "maximize"),
        ("mine", "max", "maximize"),
        ("mine", "auto", "minimize"),
        ("val_loss", "max", "maximize"),
    ],
)
def test_the_mode_is_the_direction_of_the_study(monitor, mode, direction):
    other = {"minimize": "maximize", "maximize": "minimize"}[direction]
    minidl.OptunaPruning(new_study(direction=direction).ask(), monitor, mode)
    got = {"minimize": "min", "maximize": "max"}[direction]
    message = (
        f"^mode: expected the direction of the study, {other.upper()}, got '{got}' for '{monitor}'$"
    )
    with pytest.raises(ValueError, match=message):
        minidl.OptunaPruning(new_study(direction=other).ask(), monitor, mode)


def test_what_cannot_be_pruned():
    two = new_study(directions=["minimize", "minimize"]).ask()
    with pytest.raises(
        ValueError, match=r"^trial: expected one of a study with one objective, got"
    ):
        minidl.OptunaPruning(two)
    study = new_study()
    with pytest.raises(TypeError, match=r"^trial: expected a trial of Optuna's, got <optuna.study"):
        minidl.OptunaPruning(study)
    with pytest.raises(ValueError, match=r"^interval: expected an integer of at least 1, got 0"):
        minidl.OptunaPruning(study.ask(), interval=0)
    with pytest.raises(ValueError, match=r"^monitor: expected one of 'loss', .*, got 'val_f1'"):
        fit(new_trainer(), minidl.OptunaPruning(study.ask(), "val_f1", "min"))


def test_a_fixed_trial_is_never_pruned():
    trial = optuna.trial.FixedTrial({"lr": 0.1})
    assert len(fit(new_trainer(), minidl.OptunaPruning(trial))) == 5


def test_an_estimator_of_scikit_learn():
    sklearn = pytest.importorskip("minidl.sklearn")
    pruner = Scripted(2)
    pruning = minidl.OptunaPruning(new_study(pruner, direction="maximize").ask(), "val_score")
    clf = sklearn.MLPClassifier((8,), early_stopping=True, random_state=0, callbacks=[pruning])
    with pytest.raises(optuna.TrialPruned, match="after epoch 2, val_score"):
        clf.fit(X, Y)
    assert [step for step, _ in pruner.shown] == [0, 1, 2]


def test_without_optuna():
    code = "import sys; sys.modules['optuna'] = None; import minidl; minidl.OptunaPruning(1)"
    done = python("-c", code, check=False)
    assert "ImportError: OptunaPruning needs optuna: pip install 'minidl[optuna]'" in done.stderr


# The example: processes that share a study.


def study_of(journal):
    """The study as it stands in the file."""
    backend = optuna.storages.journal.JournalFileBackend(str(journal))
    return optuna.load_study(study_name="digits", storage=optuna.storages.JournalStorage(backend))


def running(study):
    """Process by process, the trial that it is making."""
    return {
        trial.user_attrs["process"]: trial
        for trial in study.get_trials(states=[TrialState.RUNNING])
        if "process" in trial.user_attrs and len(trial.params) == 4
    }


def is_held(lock):
    """True if a lock stays as long as only a process that is stopped holds it."""
    return lock.exists() and all(time.sleep(0.02) or lock.exists() for _ in range(10))


def stopped_in_a_trial(journal, locked, deadline):
    """Stop a process while it makes a trial, with the lock or without: the process, the trial."""
    while time.monotonic() < deadline:
        time.sleep(0.01)
        if not journal.exists():
            continue
        try:
            study = study_of(journal)
        except KeyError:  # it is not there yet
            continue
        for process in running(study):
            os.kill(process, signal.SIGSTOP)
            held = is_held(journal.with_name(journal.name + ".lock"))
            trial = running(study).get(process)  # it may have ended meanwhile
            if trial is not None and held == locked:
                return process, trial
            os.kill(process, signal.SIGCONT)
    raise AssertionError("no process was seen to make a trial")


@pytest.mark.parametrize("locked", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_a_study_survives_the_kill_of_a_process(locked, tmp_path):
    """Its trial is made again, once; a lock that it held is broken; the next run goes on."""
    journal = tmp_path / "digits.journal"
    arguments = EXAMPLE, "--processes", 2, "--trials", 20, "--journal", journal
    parent = start_python("-W", "error", *arguments, stdout=-1, stderr=-1)
    try:
        process, trial = stopped_in_a_trial(journal, locked, time.monotonic() + 40)
        os.kill(process, signal.SIGKILL)
        said, errors = parent.communicate(timeout=60)
    finally:
        parent.kill()
    assert parent.returncode == 0, errors
    assert f"trial {trial.number} was left by process {process}, is made again\n" in said
    trials = study_of(journal).trials
    finished = [t for t in trials if t.state in FINISHED]
    assert len(finished) >= 20
    assert [t.number for t in trials if t.state not in FINISHED] == [trial.number]
    assert trials[trial.number].state == TrialState.FAIL
    assert [t.params for t in finished].count(trial.params) == 1

    more = len(finished) + 2
    python("-W", "error", EXAMPLE, "--processes", 1, "--trials", more, "--journal", journal)
    again = study_of(journal).trials
    assert again[: len(trials)] == trials
    assert sum(t.state in FINISHED for t in again) == more
