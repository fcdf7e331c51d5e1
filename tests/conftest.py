"""Before any test imports PyTorch."""

from hypothesis import HealthCheck, settings

from distill2edge.util.threads import spin_briefly

spin_briefly()  # two halves of the suite side by side would spin each other's cores away
# A machine busy with other work is not a fault of what is tested.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")
pytest_plugins = ["s3_server"]
