"""Metrics: what `Trainer(metrics=[...])` measures beside the loss.

========================  ========================  =========================================
name                      loss                      in scikit-learn
========================  ========================  =========================================
accuracy                  of classes, binary        accuracy_score
balanced_accuracy         of classes, binary        balanced_accuracy_score
precision, recall, f1     of classes, binary        precision_score, recall_score, f1_score
auc                       of classes, binary        roc_auc_score
top_k (k = 5), top_3 ...  of classes                top_k_accuracy_score
mae, rmse, r2             of values, functions      mean_absolute_error, ..., r2_score
========================  ========================  =========================================

Of several classes the result is the macro average, for auc each class against the rest. A binary
loss with one column (N, 1) gives the result of the ones, with several (N, K) the mean over the
columns; for accuracy this is the share of labels that are right.

Sample weights weigh the rows in all of them, the accuracy that comes with a loss included; class
weights only in the loss.

There are no warnings: auc is NaN where a class is missing, r2 of one row is NaN, and precision is 0
where nothing is said to be of a class, as in scikit-learn. All are NaN where an output is not
finite. Balanced accuracy, precision, recall, f1 and auc need scikit-learn.
"""

from minidl.metrics.convert import Task
from minidl.metrics.metric import Metric, as_metrics

__all__ = ["Metric", "Task", "as_metrics"]
