"""`fwl`, the command line: each command a thin layer over the producer, the store and the runner.

    main        parses, runs one command, turns whatever happened into an exit code
    app         the commands and their options
    session     what one invocation knows: which file, which form of output
    problems    what can go wrong, with its exit code
    render      text for terminals, JSON for programs
    submitting, running, listing, details, waiting, cancelling, serving    one command family each

What `submit status wait cancel show` import is kept small: they start in a tenth of a second.

Runs in: the command line.
"""
