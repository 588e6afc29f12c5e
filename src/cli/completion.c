/* SPDX-License-Identifier: Apache-2.0 */
/* The completion scripts. What is known beforehand is written into them; the names of tenants and
 * devices they ask for when they need them, by `cleave __complete KIND`. */
#include <errno.h>
#include <string.h>

#include "cli/help.h"

static const char *live_words(enum cli_words words)
{
        switch (words) {
        case CLI_WORDS_TENANT:
                return "tenants";
        case CLI_WORDS_DEVICE:
                return "devices";
        default:
                return NULL;
        }
}

static void verb_names(FILE *out)
{
        for (size_t i = 0; i < cli_n_verbs; i++)
                if (!cli_verbs[i]->hidden)
                        fprintf(out, "%s%s", i ? " " : "", cli_verbs[i]->name);
}

static const char *choices_of(const struct cli_option *option)
{
        return option->choices ? option->choices : "";
}

/* bash: a case per verb that knows its options, and one per option that has words to offer. */
static void bash_words(FILE *out, enum cli_words words, const char *choices)
{
        const char *live = live_words(words);

        if (live)
                fprintf(out, "$(cleave __complete %s 2>/dev/null)", live);
        else if (words == CLI_WORDS_VERB)
                verb_names(out);
        else if (choices)
                fputs(choices, out);
}

static void bash_option_values(FILE *out, const struct cli_option *option)
{
        if (!option->argument || option->optional)
                return;
        if (option->letter)
                fprintf(out, "                -%c|--%s)\n", option->letter, option->name);
        else
                fprintf(out, "                --%s)\n", option->name);
        fputs("                        words=\"", out);
        bash_words(out, option->words, option->choices);
        fputs("\"\n                        value=1\n                        ;;\n", out);
}

static void bash_verb(FILE *out, const struct cli_verb *verb)
{
        fprintf(out, "        %s)\n                options=\"", verb->name);
        for (size_t i = 0; i < verb->n_options; i++)
                fprintf(out, "--%s ", verb->options[i].name);
        fputs("--help\"\n                words=\"", out);
        bash_words(out, verb->words, verb->choices);
        fputs("\"\n                case $previous in\n", out);
        for (size_t i = 0; i < verb->n_options; i++)
                bash_option_values(out, verb->options + i);
        fputs("                esac\n                ;;\n", out);
}

static void completion_bash(FILE *out)
{
        fputs("# bash completion for cleave\n"
              "_cleave_command_at() { # where the operands of a verb that runs a command begin\n"
              "        local i\n"
              "        for ((i = 2; i < COMP_CWORD; i++)); do\n"
              "                if [[ ${COMP_WORDS[i]} == -- ]]; then\n"
              "                        echo $((i + 1))\n"
              "                        return\n"
              "                fi\n"
              "        done\n"
              "}\n\n"
              "_cleave() {\n"
              "        local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - "
              "1]}\n"
              "        local verb=${COMP_WORDS[1]} options= words= value= at\n"
              "        COMPREPLY=()\n"
              "        if ((COMP_CWORD == 1)); then\n"
              "                COMPREPLY=($(compgen -W \"",
                out);
        verb_names(out);
        fputs(" --help --version\" -- \"$current\"))\n"
              "                return\n"
              "        fi\n"
              "        case $verb in\n",
                out);
        for (size_t i = 0; i < cli_n_verbs; i++)
                if (!cli_verbs[i]->hidden)
                        bash_verb(out, cli_verbs[i]);
        fputs("        esac\n"
              "        if [[ $verb == run ]] && at=$(_cleave_command_at) && [[ $at ]]; then\n"
              "                if declare -F _command_offset >/dev/null; then\n"
              "                        _command_offset \"$at\"\n"
              "                elif ((COMP_CWORD == at)); then\n"
              "                        COMPREPLY=($(compgen -c -- \"$current\"))\n"
              "                else\n"
              "                        COMPREPLY=($(compgen -f -- \"$current\"))\n"
              "                fi\n"
              "                return\n"
              "        fi\n"
              "        if [[ ! $value && $current == -* ]]; then\n"
              "                words=$options\n"
              "        fi\n"
              "        COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
              "}\n"
              "complete -F _cleave cleave\n",
                out);
}

/* In single quotes of a shell. also: another character to put a backslash before. */
static void quoted(FILE *out, const char *text, const char *also)
{
        for (const char *p = text; *p; p++) {
                if (*p == '\'')
                        fputs("'\\'", out);
                else if (strchr(also, *p))
                        fputc('\\', out);
                fputc(*p, out);
                if (*p == '\'')
                        fputc('\'', out);
        }
}

static void zsh_action(FILE *out, enum cli_words words, const char *choices)
{
        const char *live = live_words(words);

        if (live)
                fprintf(out, "{compadd -- $(cleave __complete %s 2>/dev/null)}", live);
        else if (words == CLI_WORDS_VERB) {
                fputs("(", out);
                verb_names(out);
                fputs(")", out);
        } else if (choices)
                fprintf(out, "(%s)", choices);
        else
                fputs(" ", out);
}

static void zsh_option(FILE *out, const struct cli_option *option)
{
        const char *star = option->repeatable ? "*" : "";
        char names[2][64] = {"", ""};

        snprintf(names[0], sizeof(names[0]), "--%s%s", option->name,
                !option->argument  ? ""
                : option->optional ? "=-"
                                   : "=");
        if (option->letter)
                snprintf(names[1], sizeof(names[1]), "-%c%s", option->letter,
                        option->argument && !option->optional ? "+" : "");
        for (int i = 0; i < 2; i++) {
                if (!names[i][0])
                        continue;
                fprintf(out, "                        '%s%s[", star, names[i]);
                quoted(out, option->help, "[]:\\");
                fputs("]", out);
                if (option->argument) {
                        fprintf(out, "%s%s:", option->optional ? "::" : ":", option->argument);
                        zsh_action(
                                out, option->words, choices_of(option)[0] ? option->choices : NULL);
                }
                fputs("' \\\n", out);
        }
}

static void zsh_verb(FILE *out, const struct cli_verb *verb)
{
        fprintf(out, "        %s)\n                _arguments %s\\\n", verb->name,
                verb->command ? "-S " : "");
        for (size_t i = 0; i < verb->n_options; i++)
                zsh_option(out, verb->options + i);
        fputs("                        '(-h --help)'{-h,--help}'[Show help.]'", out);
        if (verb->command) {
                fputs(" \\\n                        '(-)1:command:_command_names -e' "
                      "'*::argument:_normal'",
                        out);
        } else if (verb->operands) {
                fputs(" \\\n                        '*:operand:", out);
                zsh_action(out, verb->words, verb->choices);
                fputs("'", out);
        }
        fputs("\n                ;;\n", out);
}

static void completion_zsh(FILE *out)
{
        fputs("#compdef cleave\n"
              "_cleave() {\n"
              "        local -a verbs\n"
              "        verbs=(\n",
                out);
        for (size_t i = 0; i < cli_n_verbs; i++) {
                if (cli_verbs[i]->hidden)
                        continue;
                fprintf(out, "                '%s:", cli_verbs[i]->name);
                quoted(out, cli_verbs[i]->summary, ":\\");
                fputs("'\n", out);
        }
        fputs("        )\n"
              "        if ((CURRENT == 2)); then\n"
              "                _describe verb verbs\n"
              "                return\n"
              "        fi\n"
              "        local verb=$words[2]\n"
              "        shift words\n"
              "        ((CURRENT--))\n"
              "        case $verb in\n",
                out);
        for (size_t i = 0; i < cli_n_verbs; i++)
                if (!cli_verbs[i]->hidden)
                        zsh_verb(out, cli_verbs[i]);
        fputs("        esac\n"
              "}\n"
              "if [[ $zsh_eval_context[-1] == loadautofunc ]]; then\n"
              "        _cleave \"$@\"\n"
              "else\n"
              "        compdef _cleave cleave\n"
              "fi\n",
                out);
}

static void fish_words(FILE *out, enum cli_words words, const char *choices)
{
        const char *live = live_words(words);

        if (live)
                fprintf(out, " -a '(cleave __complete %s 2>/dev/null)'", live);
        else if (words == CLI_WORDS_VERB) {
                fputs(" -a '", out);
                verb_names(out);
                fputs("'", out);
        } else if (words == CLI_WORDS_COMMAND)
                fputs(" -a '(__fish_complete_subcommand)'", out);
        else if (choices)
                fprintf(out, " -a '%s'", choices);
}

static void fish_verb(FILE *out, const struct cli_verb *verb)
{
        for (size_t i = 0; i < verb->n_options; i++) {
                const struct cli_option *option = verb->options + i;

                fprintf(out, "complete -c cleave -n '__fish_seen_subcommand_from %s' -l %s",
                        verb->name, option->name);
                if (option->letter)
                        fprintf(out, " -s %c", option->letter);
                if (option->argument) {
                        fputs(option->optional ? "" : " -x", out);
                        fish_words(out, option->words, option->choices);
                }
                fputs(" -d '", out);
                quoted(out, option->help, "");
                fputs("'\n", out);
        }
        if (verb->operands) {
                fprintf(out, "complete -c cleave -n '__fish_seen_subcommand_from %s'", verb->name);
                fish_words(out, verb->words, verb->choices);
                fputs("\n", out);
        }
}

static void completion_fish(FILE *out)
{
        fputs("# fish completion for cleave\ncomplete -c cleave -f\n", out);
        for (size_t i = 0; i < cli_n_verbs; i++) {
                if (cli_verbs[i]->hidden)
                        continue;
                fprintf(out, "complete -c cleave -n __fish_use_subcommand -a %s -d '",
                        cli_verbs[i]->name);
                quoted(out, cli_verbs[i]->summary, "");
                fputs("'\n", out);
        }
        for (size_t i = 0; i < cli_n_verbs; i++)
                if (!cli_verbs[i]->hidden)
                        fish_verb(out, cli_verbs[i]);
}

int help_completion(FILE *out, const char *shell)
{
        if (strcmp(shell, "bash") == 0)
                completion_bash(out);
        else if (strcmp(shell, "zsh") == 0)
                completion_zsh(out);
        else if (strcmp(shell, "fish") == 0)
                completion_fish(out);
        else
                return -ENOENT;
        return 0;
}
