"""`/metrics` of the dashboard, by a real server in a process of its own."""

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from ai_how.waiting import Deadline, wait_until
from dashboard_process import made_up_dashboard


def test_a_scraper_with_the_token_gets_all_clusters() -> None:
    with made_up_dashboard() as page:
        told = {
            "Authorization": f"Bearer {page.token}",
            "Accept": "application/openmetrics-text;version=1.0.0",
        }

        def has_clusters() -> bool:
            """The server may not yet have looked which there are."""
            return (
                b'slurm_nodes{cluster="made-up"}'
                in page.ask("/metrics", headers=told, is_known=False).body
            )

        wait_until(has_clusters, Deadline.after(30), "the made-up cluster", interval_s=0.2)
        got = page.ask("/metrics", headers=told, is_known=False)
        assert got.status == 200
        assert got.headers["content-type"].startswith("application/openmetrics-text")
        families = {one.name: one for one in text_string_to_metric_families(got.body.decode())}
        stages = [one.labels for one in families["ai_how_start_stage_seconds"].samples]
        assert {"cluster": "made-up", "node": "controller", "stage": "boot"} in stages
        clusters = [one.labels["cluster"] for one in families["slurm_nodes"].samples]
        assert len(clusters) == len(set(clusters)) > 1
