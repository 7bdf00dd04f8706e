"""vLLM as an operator starts it, with the flags that many short requests need, and its metrics.

`python server/serve_vllm.py MODEL` and `icm-client serve MODEL` are two names of one command.
`plan` checks the options and makes the server's command, `launch` runs it. docs/serving.md
explains both.
"""
