"""The official Python buyers: buyer.py httpx|requests URL ACCOUNT, with the pinned packages on PYTHONPATH.

Prints one JSON line {"status", "body", "receipt"}; exits 1 unless the status is a 2xx.
"""

import asyncio
import json
import sys

from eth_account import Account
from x402.http import decode_payment_response_header
from x402.mechanisms.evm import EthAccountSigner
from x402.mechanisms.evm.exact import register_exact_evm_client

MNEMONIC = "test test test test test test test test test test test junk"


def with_httpx(url, signer):
    import httpx
    from x402 import x402Client
    from x402.http.clients import x402_httpx_transport

    client = x402Client()
    register_exact_evm_client(client, signer)

    async def get():
        async with httpx.AsyncClient(transport=x402_httpx_transport(client), timeout=60) as session:
            return await session.get(url)

    return asyncio.run(get())


def with_requests(url, signer):
    from x402 import x402ClientSync
    from x402.http.clients import x402_requests

    client = x402ClientSync()
    register_exact_evm_client(client, signer)
    with x402_requests(client) as session:
        return session.get(url, timeout=60)


def main():
    kind, url, index = sys.argv[1:]
    Account.enable_unaudited_hdwallet_features()
    account = Account.from_mnemonic(MNEMONIC, account_path=f"m/44'/60'/0'/0/{int(index)}")
    get = {"httpx": with_httpx, "requests": with_requests}[kind]
    response = get(url, EthAccountSigner(account))
    receipt = response.headers.get("PAYMENT-RESPONSE") or response.headers.get("X-PAYMENT-RESPONSE")
    try:
        body = json.loads(response.text)
    except ValueError:
        body = response.text
    decoded = json.loads(decode_payment_response_header(receipt).model_dump_json(by_alias=True)) if receipt else None
    print(json.dumps({"status": response.status_code, "body": body, "receipt": decoded}))
    return 0 if 200 <= response.status_code < 300 else 1


if __name__ == "__main__":
    sys.exit(main())
