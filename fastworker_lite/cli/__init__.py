"""`fwl`, the command line: each command a thin layer over the producer, the store and the runner.

    main        parses, runs one command, turns whatever happened into an exit code
    app         the commands and their options
    session     what one invocation knows: which file, which form of output
    problems    what can go wrong, with its exit code
    render      text for terminals, JSON for programs
    records     a job as it is shown, in words and in JSON
    submitting, running, listing, details, explaining, reading, waiting, cancelling, retrying, serving, draining
                one command family each
    here, attending, signals, terminals    how `fwl run` runs a command itself
    following, printing                    how output is passed on while it comes

What `submit status wait cancel show` import is kept small: they start in a tenth of a second.

Runs in: the command line.
"""
