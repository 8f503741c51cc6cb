//! Official buyers, unmodified, and a seller who follows the documentation.

use super::shop::{PAID, PRICE, Shop};
use crate::parts::{ACCOUNTS, Buyer, node_server};

const MINTED: u128 = 1_000_000_000;

#[tokio::test]
async fn every_official_buyer_pays_through_traefik_and_gets_answer_and_receipt() {
    let (_service, upstream) = node_server("upstream", &["servers/upstream.mjs", "0"]).await;
    let shop = Shop::open(&upstream).await;

    for (buyer, account) in Buyer::ALL.into_iter().zip([1, 2, 3, 5, 6, 7]) {
        let before = shop.earned().await;
        let result = buyer.pay(&shop.url(PAID), account).await;
        let payer = ACCOUNTS[account].address;
        assert_eq!(result.status, 200, "{buyer:?}: {result:?}");
        assert_eq!(result.body["message"], "the paid answer", "{buyer:?}");
        assert_eq!(result.body["url"], PAID, "{buyer:?}");
        assert_eq!(result.body["payer"], payer, "{buyer:?}");

        let receipt = result.receipt.unwrap_or_default();
        let network = if buyer == Buyer::V1 {
            "base-sepolia"
        } else {
            "eip155:84532"
        };
        assert_eq!(receipt["success"], true, "{buyer:?}: {receipt}");
        assert_eq!(receipt["network"], network, "{buyer:?}: {receipt}");
        assert_eq!(receipt["payer"], payer, "{buyer:?}: {receipt}");
        let hash = receipt["transaction"].clone();
        let mined = shop
            .chain
            .rpc("eth_getTransactionReceipt", serde_json::json!([hash]))
            .await;
        assert_eq!(
            mined["status"], "0x1",
            "{buyer:?}: its transaction is on the chain"
        );

        assert_eq!(shop.earned().await - before, PRICE, "{buyer:?}");
        assert_eq!(
            shop.chain.balance_of(payer).await,
            MINTED - PRICE,
            "{buyer:?}"
        );
    }
    assert_eq!(shop.facilitator.settlements(), Buyer::ALL.len());
    assert_eq!(shop.balanced().await, PRICE * 6);
}
