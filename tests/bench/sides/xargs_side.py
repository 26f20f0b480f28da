"""xargs -P2: commands that nothing stores."""

import subprocess
import time

from told import main


def run(size, folder):
    began = time.perf_counter()
    subprocess.run(["xargs", "-P2", "-n1", "true"], input="x\n" * size, text=True, check=True)
    return {"rate": size / (time.perf_counter() - began)}


if __name__ == "__main__":
    main({"W14": run})
