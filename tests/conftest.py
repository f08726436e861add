"""What holds for every test."""

from hypothesis import HealthCheck, settings

from tests.postgresql import pooled_url as pooled_url, postgresql as postgresql

# How long an example takes says how busy the machine is, not whether perdure works.
settings.register_profile("perdure", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("perdure")
