import json

from ai_how.hpc.slurm_sample import read_jobs, read_scheduler


def test_figures_of_groups_and_switches_are_read_and_what_is_no_figure_is_not():
    text = json.dumps(
        {
            "statistics": {
                "server_thread_count": 3,
                "req_time": {"set": True, "infinite": False, "number": 1796093183},
                "bf_active": False,
                "schedule_exit": {"end_job_queue": 16, "licenses": 0, "a b": 1, "text": "x"},
                "bf_exit": [1, 2],
                "rpcs_by_user": [{"count": 1}],
            }
        }
    )
    assert read_scheduler(text) == {
        "server_thread_count": 3,
        "req_time": 1796093183,
        "bf_active": 0,
        "schedule_exit_end_job_queue": 16,
        "schedule_exit_licenses": 0,
    }


def test_a_job_keeps_its_further_words():
    jobs = [{"job_id": 1, "job_state": ["COMPLETED", "COMPLETING"], "name": "a"}]
    (job,) = read_jobs(json.dumps({"jobs": jobs}))
    assert (job.state, job.flags) == ("completing", ("completed",))
