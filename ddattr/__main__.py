from ddattr.cli import main

main()
