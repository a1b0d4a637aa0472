from __future__ import annotations

from streamseg.spark.session import connector, error_in, polling

_OF_A_TASK = """An exception was thrown by the Python worker:
Traceback (most recent call last):
  File "task.py", line 227, in _kept_and_published
streamseg.errors.ConfigError: commit 7 was made of orders-0, the checkpoint is at 6 (group shop)
  what to do: one checkpoint for an application

\tat org.apache.spark.api.python.BasePythonRunner"""


def test_the_connector_is_of_the_same_version() -> None:
    assert connector("3.5.7") == {"spark.jars.packages": "org.apache.spark:spark-sql-kafka-0-10_2.12:3.5.7"}
    assert connector("4.0.1") == {"spark.jars.packages": "org.apache.spark:spark-sql-kafka-0-10_2.13:4.0.1"}


def test_an_error_of_a_task_comes_out_of_sparks_text_with_its_exit_code() -> None:
    found = error_in(Exception(_OF_A_TASK))
    assert found.exit_code == 2
    assert found.message == "commit 7 was made of orders-0, the checkpoint is at 6 (group shop)"
    assert found.hint == "one checkpoint for an application"


def test_an_error_of_spark_is_told_in_its_first_line() -> None:
    found = error_in(Exception("\nno space left on device\n\tat java.io"))
    assert found.exit_code == 5
    assert "no space left on device" in str(found)


def test_how_far_the_input_is_ahead() -> None:
    source = {"endOffset": '{"orders":{"0":10,"1":4}}', "latestOffset": {"orders": {"0": 12, "1": 4, "2": 9}}}
    told = polling(source)
    assert told.partitions == (0, 1)
    assert told.lags == {0: 2, 1: 0}


def test_nothing_is_ahead_of_a_query_that_has_not_begun() -> None:
    assert polling({"endOffset": None, "latestOffset": None}).lags == {}
