//! The parts, proven without the verifier: when these fail, no other test with real parts means anything.

mod real {
    use std::time::Duration;

    use serde_json::{Value, json};

    use crate::parts::{
        ACCOUNTS, Anvil, Buyer, BuyerResult, CHAIN_ID, PAYEE, TOKEN, Traefik, TsFacilitator,
        check_metrics, http, node_server,
        process::{Process, supervised},
        require,
    };

    /// 0.001 USDC, the price of every seller in `tests/parts/servers`.
    const PRICE: u128 = 1000;
    const MINTED: u128 = 1_000_000_000;

    #[tokio::test]
    async fn every_buyer_pays_a_seller_that_speaks_both_versions() {
        let chain = Anvil::start().await;
        let facilitator = TsFacilitator::start(&chain, 0).await;
        let (_seller, seller) =
            node_server("dual", &["servers/dual.mjs", "0", facilitator.url()]).await;

        let unpaid = get(&seller).await;
        assert_eq!(unpaid.status, 402);
        assert!(
            unpaid.headers.contains_key("payment-required"),
            "the v2 half of the challenge"
        );
        assert_eq!(
            unpaid.json().get("x402Version"),
            Some(&Value::from(1)),
            "the v1 half"
        );

        for (buyer, account) in Buyer::ALL.into_iter().zip([1, 2, 3, 5, 6, 7]) {
            let result: BuyerResult = buyer.pay(&format!("{seller}/paid"), account).await;
            assert_eq!(result.status, 200, "{buyer:?}: {result:?}");
            let version = if buyer == Buyer::V1 { 1 } else { 2 };
            assert_eq!(
                result.body.get("x402Version"),
                Some(&Value::from(version)),
                "{buyer:?}"
            );
            let receipt = result.receipt.unwrap_or_default();
            assert_eq!(
                receipt.get("success"),
                Some(&Value::Bool(true)),
                "{buyer:?}: {receipt}"
            );
            assert_eq!(
                chain.balance_of(ACCOUNTS[account].address).await,
                MINTED - PRICE
            );
        }
        assert_eq!(facilitator.settlements(), Buyer::ALL.len());
        assert_eq!(
            chain.balance_of(PAYEE.address).await,
            PRICE * 6,
            "sum earned is sum spent"
        );
    }

    #[tokio::test]
    async fn every_v2_buyer_pays_the_official_express_middleware() {
        let chain = Anvil::start().await;
        let facilitator = TsFacilitator::start(&chain, 0).await;
        let (_seller, seller) = node_server(
            "resource",
            &["servers/resource.mjs", "0", facilitator.url()],
        )
        .await;

        let buyers = Buyer::ALL.into_iter().filter(|buyer| *buyer != Buyer::V1);
        for (buyer, account) in buyers.zip([1, 2, 3, 5, 6]) {
            let result = buyer.pay(&format!("{seller}/paid"), account).await;
            assert_eq!(result.status, 200, "{buyer:?}: {result:?}");
            assert_eq!(
                result.body.get("secret"),
                Some(&Value::from(42)),
                "{buyer:?}"
            );
        }
        assert_eq!(chain.balance_of(PAYEE.address).await, PRICE * 5);
    }

    #[tokio::test]
    async fn a_buyer_without_tokens_reports_the_402_that_it_got() {
        let chain = Anvil::start().await;
        let facilitator = TsFacilitator::start(&chain, 0).await;
        let (_seller, seller) =
            node_server("dual", &["servers/dual.mjs", "0", facilitator.url()]).await;

        let result = Buyer::Requests.pay(&format!("{seller}/paid"), 0).await;
        assert_eq!(result.status, 402, "{result:?}");
        assert_eq!(facilitator.settlements(), 0);
    }

    #[tokio::test]
    async fn the_chain_is_base_sepolia_as_far_as_buyers_can_tell() {
        let chain = Anvil::start().await;
        let id = chain.rpc("eth_chainId", json!([])).await;
        assert_eq!(id, Value::String(format!("{CHAIN_ID:#x}")));
        let code = chain.rpc("eth_getCode", json!([TOKEN, "latest"])).await;
        assert!(
            code.as_str().is_some_and(|code| code.len() > 1000),
            "the token is there"
        );
        assert_eq!(
            chain.balance_of(PAYEE.address).await,
            0,
            "its balance is what was earned"
        );
    }

    #[tokio::test]
    async fn a_frozen_chain_wakes_up_again() {
        let chain = Anvil::start_with(&["--block-time", "1"]).await;
        chain.pause().await;
        let call = chain.balance_of(ACCOUNTS[1].address);
        let hung = tokio::time::timeout(Duration::from_millis(300), call).await;
        assert!(hung.is_err(), "a stopped chain answered");
        chain.resume();
        assert_eq!(chain.balance_of(ACCOUNTS[1].address).await, MINTED);
    }

    #[tokio::test]
    async fn traefik_asks_an_auth_server_and_takes_a_new_configuration() {
        let mut command = supervised(require("peers").join("axum-static"));
        command.args(["0", "402"]);
        let mut refusing = Process::start("auth", command);
        let auth = refusing.wait_for_line("listening on ").await;
        let (_upstream, upstream) = node_server("upstream", &["servers/upstream.mjs", "0"]).await;
        let gated = format!(
            "http:
  routers: {{all: {{rule: \"PathPrefix(`/`)\", entryPoints: [web, raw], middlewares: [pay], service: up}}}}
  middlewares: {{pay: {{forwardAuth: {{address: \"http://{auth}/verify\"}}}}}}
  services: {{up: {{loadBalancer: {{servers: [{{url: \"{upstream}\"}}]}}}}}}
"
        );
        let plain = Traefik::start(&gated.replace(", raw]", "]")).await;
        assert_eq!(get(&plain.url("web")).await.status, 402);

        let entrypoints = [("web", ""), ("raw", "http: {sanitizePath: false}")];
        let mut traefik = Traefik::start_with(&gated, &entrypoints).await;
        for entrypoint in ["web", "raw"] {
            assert_eq!(get(&traefik.url(entrypoint)).await.status, 402);
        }
        assert!(
            traefik
                .metrics()
                .await
                .contains("traefik_entrypoint_requests_total")
        );

        let open = gated.replace("middlewares: [pay], ", "");
        traefik.rewrite(&open).await;
        assert_eq!(get(&traefik.url("web")).await.status, 200);
        let (_, access_log) = traefik.log();
        assert!(access_log.exists());
    }

    #[tokio::test]
    async fn an_ended_test_process_takes_its_children_with_it() {
        // Two supervisors, one inside the other: killing the outer shell is what a killed test process looks like
        // to the inner one, whose stdin ends.
        let mut command = supervised("bash");
        let supervise = crate::parts::parts_dir().join("supervise.sh");
        let script = "sleep 1000 | setsid \"$1\" bash -c 'echo child $$; exec sleep 2000'";
        command.args(["-c", script, "-"]).arg(supervise);
        let mut outer = Process::start("outer", command);
        let child = outer.wait_for_line("child ").await;
        // Ended but not yet reaped by whoever inherited it, it has an empty command line.
        let alive =
            || std::fs::read(format!("/proc/{child}/cmdline")).is_ok_and(|line| !line.is_empty());
        // While it becomes `sleep` its command line is empty, too.
        for _ in 0..500 {
            if alive() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(alive());
        drop(outer);
        for _ in 0..500 {
            if !alive() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("process {child} outlived its starter");
    }

    #[tokio::test]
    async fn a_terminated_process_ends_with_its_own_status() {
        let mut command = supervised("bash");
        command.args([
            "-c",
            "trap 'exit 7' TERM; echo up; while :; do sleep 0.02; done",
        ]);
        let mut polite = Process::start("polite", command);
        polite.wait_for_line("up").await;
        polite.terminate();
        assert_eq!(polite.wait(Duration::from_secs(10)).await, 7);
    }

    #[tokio::test]
    async fn promtool_tells_good_metrics_from_bad() {
        let good = "# HELP things_total Things.\n# TYPE things_total counter\nthings_total 1\n";
        assert_eq!(check_metrics(good).await, Ok(()));
        assert!(
            check_metrics("things_total{ 1\n").await.is_err(),
            "no exposition"
        );
        assert!(
            check_metrics("things_total 1\n").await.is_err(),
            "no help text"
        );
    }

    async fn get(url: &str) -> http::Answer {
        http::get(url)
            .await
            .unwrap_or_else(|error| panic!("{url}: {error}"))
    }
}
