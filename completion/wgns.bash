# Completion in bash for netns-up, netns-down, wg-up, wg-down and wgns.
# Verbs, options and the kinds of arguments come from the usage in --help, so they are those of the installed program.

_wgns() {
    local line=${COMP_LINE:0:COMP_POINT} typed=${COMP_WORDS[COMP_CWORD]} usage word current verb="" option="" kind=""
    local -a words places=()
    local -A values=([--help]="" [--version]="")
    COMPREPLY=()
    read -ra words <<< "$line" # the elements of COMP_WORDS end at =, : and @, too
    [[ $line != *[[:blank:]] ]] || words+=("")
    current=${words[-1]}
    words=("${words[@]:1:${#words[@]}-2}")

    usage=$("$1" --help 2> /dev/null)
    if [[ $usage =~ ^"usage: wgns "([a-z|]+) ]]; then
        if ((${#words[@]} == 0)); then
            _wgns_reply "${BASH_REMATCH[1]//|/ } --help --version"
            return
        fi
        verb=${words[0]}
        words=("${words[@]:1}")
        usage=$("$1" "$verb" --help 2> /dev/null)
    fi
    # The usage is the first line, and the lines after it that go on with options.
    usage=$(sed -n 's/^usage: [a-z-]* *[a-z]*//; s/[][]//g; s/|/ /g; 1p; 2,${/^  *--/!q; p}' <<< "$usage")
    for word in $usage; do
        case $word in
            --?*) option=$word values[$word]="" ;;
            [A-Z]*) if [[ $option ]]; then values[$option]=${word%…}; else places+=("$word"); fi; option="" ;;
        esac
    done

    # Here goes the value of an option, an option, or the next of the other arguments.
    option=""
    for word in "${words[@]}"; do
        if [[ $option ]]; then
            option=""
        elif [[ $word == -* ]]; then
            [[ ! ${values[$word]-} ]] || option=$word
        elif [[ ${places[0]-} != *… ]]; then
            places=("${places[@]:1}")
        fi
    done
    if [[ $option ]]; then
        kind=${values[$option]}
    elif [[ $current == --*=* ]]; then
        kind=${values[${current%%=*}]-}
        current=${current#*=}
    elif [[ $current == -* && ${places[0]-} != ARGUMENT* ]]; then
        kind=OPTION
    else
        kind=${places[0]-}
    fi
    _wgns_values "$verb ${kind%…}"
}

# Complete $current with values of a kind, as the usage names it.
_wgns_values() {
    case $1 in
        *OPTION) _wgns_reply "${!values[*]}" ;;
        *COMMAND) mapfile -t COMPREPLY < <(compgen -c -- "$current") ;;
        *USER) mapfile -t COMPREPLY < <(compgen -u -- "$current") ;;
        *FILE | *ARGUMENT) compopt -o default ;;
        *PATH)
            compopt -o filenames
            _wgns_reply "$(compgen -f -- "${current:-/run/}")"
            ;;
        *TUNNEL | *NAME | *NAMESPACE)
            [[ $current != */* ]] || compopt -o default # wg-up ./NAME.conf
            _wgns_names /etc/wireguard/*.conf /run/netns/*
            ;;
        "release UNIT") _wgns_names /etc/systemd/system/{*.d/wireguard.conf,{publish,reach}-*.socket} ;;
        *UNIT)
            _wgns_reply "$(systemctl list-unit-files --no-legend --type=service,socket 2> /dev/null | sed 's/ .*//')
                $(systemctl list-units --all --plain --no-legend --type=service,socket 2> /dev/null | sed 's/ .*//')"
            ;;
    esac
}

# Complete $current with the names that some paths stand for.
_wgns_names() {
    local path names=""
    for path in "$@"; do
        [[ -e $path ]] || continue
        path=${path%.d/wireguard.conf}
        path=${path##*/}
        names+=" ${path%.conf}"
    done
    _wgns_reply "$names"
}

# Complete $current with words; readline replaces only $typed, what follows the last =, : or @.
_wgns_reply() {
    local word before
    [[ $typed != [=:@] ]] || typed=""
    before=${current%"$typed"}
    for word in $(compgen -W "${1//\\/\\\\}" -- "$current" | sort -u); do
        COMPREPLY+=("${word#"$before"}")
    done
}

complete -F _wgns netns-up netns-down wg-up wg-down wgns
