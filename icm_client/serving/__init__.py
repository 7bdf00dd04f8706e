"""What an operator starts: vLLM with the flags that many short requests need, and its metrics.

`python server/serve_vllm.py MODEL` and `icm-client serve MODEL` are two names of one command;
everything that they do is here. docs/serving.md explains it.
"""
