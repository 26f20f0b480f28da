"""`fwl completion`: the scripts with which shells complete the words of `fwl`. `completing` answers them.

Runs in: the command line.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from . import render
from .problems import usage
from .session import Session

_BASH = r"""# The words of fwl, for bash.
_fwl() {
    local answer kind
    COMPREPLY=()
    mapfile -t answer < <("${COMP_WORDS[0]}" _complete bash "${COMP_LINE:0:COMP_POINT}" "$2" 2>/dev/null)
    kind=${answer[0]:-nothing 0}
    case $kind in
        command*)
            local position=0
            while ((++position < COMP_CWORD)); do
                [[ ${COMP_WORDS[position]} == -- ]] && break
            done
            if ((position < COMP_CWORD)) && declare -F _command_offset >/dev/null; then
                _command_offset $((position + 1))
            elif [[ $kind == "command 0" ]]; then
                mapfile -t COMPREPLY < <(compgen -c -- "$2")
            else
                compopt -o filenames
                mapfile -t COMPREPLY < <(compgen -f -- "$2")
            fi
            ;;
        files*)
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -f -- "$2")
            ;;
        folders*)
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -d -- "$2")
            ;;
        *)
            COMPREPLY=("${answer[@]:1}")
            compopt -o nosort 2>/dev/null
            ;;
    esac
}
complete -F _fwl fwl
"""

_ZSH = r"""#compdef fwl
# The words of fwl, for zsh.
_fwl() {
    local -a answer found
    local line kind
    answer=("${(@f)$("${words[1]}" _complete zsh "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    kind=${answer[1]:-nothing 0}
    case $kind in
        command*)
            local first=${kind#* }
            shift $((first + 1)) words
            ((CURRENT -= first + 1))
            _normal
            ;;
        files*) _files ;;
        folders*) _files -/ ;;
        *)
            for line in "${(@)answer[2,-1]}"; do
                found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
            done
            ((${#found})) && _describe -V fwl found
            ;;
    esac
}
if [[ ${funcstack[1]} == _fwl ]]; then
    _fwl "$@"
else
    compdef _fwl fwl
fi
"""

_FISH = r"""# The words of fwl, for fish.
function __fwl
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l answer ($words[1] _complete fish $words[2..-1] "$current" 2>/dev/null)
    set -l kind (string split ' ' -- $answer[1])
    switch "$kind[1]"
        case command
            set -l rest (string escape -- $words[(math $kind[2] + 2)..-1])
            complete -C (string join ' ' -- $rest "$current")
        case files
            __fish_complete_path "$current"
        case folders
            __fish_complete_directories "$current" ''
        case '*'
            string join \n -- $answer[2..-1]
    end
end
complete -c fwl -f -k -a '(__fwl)'
"""

#: The script for each shell, and what to do with it.
SCRIPTS = {
    "bash": (_BASH, "for this shell: source <(fwl completion bash)   For all: put that line into ~/.bashrc"),
    "zsh": (
        _ZSH,
        "for this shell: source <(fwl completion zsh)   For all: fwl completion zsh > a folder of $fpath/_fwl",
    ),
    "fish": (_FISH, "fwl completion fish > ~/.config/fish/completions/fwl.fish"),
}


def completion(
    context: typer.Context,
    shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="The shell that is to complete words.")],
) -> int:
    """Print the script with which a shell completes commands, options, job ids and names.

    fwl completion bash
    fwl completion zsh
    fwl completion fish > ~/.config/fish/completions/fwl.fish

    For bash put this line into ~/.bashrc: source <(fwl completion bash). For zsh put the same, with zsh, into ~/.zshrc,
    after compinit.
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    if shell not in SCRIPTS:
        raise usage(f'"{shell}" is no shell that is known here; give bash, zsh or fish')
    script, hint = SCRIPTS[shell]
    print(script, end="")
    if render.is_terminal(sys.stdout):  # a shell that reads it when it starts says nothing
        session.chat(hint)
    return 0
