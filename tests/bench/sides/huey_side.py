"""huey with SqliteHuey, its defaults, and two worker processes. Results are stored, as huey does for values that are not None."""

import os
import threading
import time

from huey import SqliteHuey
from told import main, quantiles, timed, until


def make(folder, **options):
    queue = SqliteHuey(filename=os.path.join(folder, "huey.db"), **options)

    @queue.task()
    def noop(value):
        return value + 1

    return queue, noop


def consume(queue):
    consumer = queue.create_consumer(workers=2, worker_type="process", periodic=False)
    consumer.start()
    return consumer


def drain(size, folder):
    return drained(size, *make(folder, fsync=False))


def drain_durable(size, folder):
    return drained(size, *make(folder))


def drained(size, queue, noop):
    for number in range(size):
        noop(number)
    began = time.perf_counter()
    consumer = consume(queue)
    until(lambda: queue.storage.result_store_size() >= size)
    taken = time.perf_counter() - began
    consumer.stop()
    return {"rate": size / taken}


def latency(size, folder):
    queue, noop = make(folder)
    consumer = consume(queue)
    seconds = timed(lambda number: noop(number)(blocking=True, timeout=30, backoff=1, max_delay=0.001), size)
    consumer.stop()
    return quantiles(seconds)


def enqueue(size, folder):
    _, noop = make(folder)
    noop(0)
    began = time.perf_counter()
    for number in range(size):
        noop(number)
    return {"rate": size / (time.perf_counter() - began)}


def enqueue_together(size, folder):
    _, noop = make(folder)
    noop(0)
    threads = [threading.Thread(target=lambda: [noop(n) for n in range(size // 10)]) for _ in range(10)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"rate": size / (time.perf_counter() - began)}


if __name__ == "__main__":
    main(
        {
            "W1": drain_durable,
            "W1nosync": drain,
            "W2": drain_durable,
            "W3": latency,
            "W4": enqueue,
            "W4full": enqueue_together,
        }
    )
    os._exit(0)  # the consumer's threads are slow to leave
