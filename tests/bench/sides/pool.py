"""concurrent.futures.ProcessPoolExecutor: futures that nothing stores. The measure of what processes alone cost."""

import time
from concurrent.futures import ProcessPoolExecutor

from told import main, quantiles, timed


def noop(value):
    return value


def drain(size, folder):
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(noop, range(10)))
        began = time.perf_counter()
        futures = [pool.submit(noop, number) for number in range(size)]
        for future in futures:
            future.result()
        return {"rate": size / (time.perf_counter() - began)}


def latency(size, folder):
    with ProcessPoolExecutor(2) as pool:
        return quantiles(timed(lambda number: pool.submit(noop, number).result(), size))


if __name__ == "__main__":
    main({"W1": drain, "W3": latency})
