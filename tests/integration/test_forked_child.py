import subprocess
import sys
import textwrap


def test_forked_child_refuses(tmp_path):
    program = f"""
        import asyncio, os, sys
        from perdure import Client, PerdureError

        async def main():
            client = Client(id="app")
            async with client.embedded("sqlite:///{tmp_path}/jobs.db"):
                child = os.fork()
                if child == 0:
                    code = 1
                    try:
                        asyncio.run(asyncio.wait_for(client.send_event("x", id="from the child"), 5))
                    except PerdureError as error:
                        print(error, flush=True)
                        code = 7
                    except BaseException as error:
                        print("other", repr(error), flush=True)
                    os._exit(code)
                _, status = os.waitpid(child, 0)
                assert await client.get_event("from the child") is None
                await client.send_event("x")
                return os.waitstatus_to_exitcode(status)

        sys.exit(asyncio.run(main()))
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60
    )

    assert ended.returncode == 7, ended.stdout + ended.stderr
    assert "fork" in ended.stdout
