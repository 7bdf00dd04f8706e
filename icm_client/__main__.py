"""`python -m icm_client` is `icm-client`."""

from icm_client.cli.main import main

main()
